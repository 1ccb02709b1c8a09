//! Upgrades under load: execs, log output, a terminal, Wait calls, a paused container and out-of-memory kills. No call
//! fails, and no exit, event or byte is lost or doubled. `BERTH_UPGRADES` sets the number of upgrades.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

use berth_integration::{
    bundle::Bundle,
    shim::{
        CALL, Shim,
        stdio::{Stdio, fifo},
        upgrade::Programs,
    },
    wait::{LONG, until_true},
};
use berth_proto::{
    task::{StateRequest, WaitRequest},
    ttrpc::context,
};
use rustix::{
    event::{PollFd, PollFlags, poll},
    fs::{OFlags, fcntl_setfl},
};
use std::{
    fs::{File, OpenOptions},
    io::{BufRead, BufReader},
    os::unix::fs::OpenOptionsExt,
    path::Path,
    sync::atomic::{AtomicBool, AtomicUsize, Ordering},
    thread,
    time::{Duration, Instant},
};

const APPLETS: [&str; 5] = ["sh", "cat", "sleep", "echo", "stty"];
/// The threads that run execs.
const RUNNERS: usize = 4;

fn shell(script: &str) -> Bundle {
    Bundle::busybox(&["/bin/sh", "-c", script], &APPLETS)
}

/// Reads numbered lines from a fifo until its end; returns their number.
fn count_lines(file: File) -> usize {
    poll(&mut [PollFd::new(&file, PollFlags::IN)], None).unwrap();
    fcntl_setfl(&file, OFlags::empty()).unwrap();
    let mut count = 0;
    for line in BufReader::with_capacity(1 << 16, file).lines() {
        count += 1;
        assert_eq!(line.unwrap(), count.to_string(), "a line is lost or doubled");
    }
    count
}

/// Runs execs of `c` until `stop`, each with an exit status of its own; returns their number.
fn run_execs(shim: &Shim, runner: usize, stop: &AtomicBool) -> usize {
    for round in 0.. {
        if stop.load(Ordering::Relaxed) {
            return round;
        }
        let (exec, status) = (format!("r{runner}-{round}"), u32::try_from(round % 200 + 1).unwrap());
        shim.run_exec("c", &exec, &["/bin/sh", "-c", &format!("exit {status}")], None);
        assert_eq!(shim.status("c", &exec), status);
        assert_eq!(shim.delete("c", &exec).unwrap().exit_status, status);
    }
    0
}

/// Asks for the state all the time; returns the longest duration of a call.
fn probe(shim: &Shim, stop: &AtomicBool) -> Duration {
    let client = shim.connection();
    let request = StateRequest { id: "c".into(), ..Default::default() };
    let mut longest = Duration::ZERO;
    while !stop.load(Ordering::Relaxed) {
        let begin = Instant::now();
        shim.runtime().block_on(client.state(context::with_duration(CALL), &request)).unwrap();
        longest = longest.max(begin.elapsed());
    }
    longest
}

/// Talks to a terminal until `stop`; returns the number of answers.
fn talk(shim: &Shim, stop: &AtomicBool) -> usize {
    let mut terminal = Stdio::terminal(shim.work(), "tty");
    let script = "stty -echo; echo ready; while read line; do echo \"<$line>\"; done";
    shim.run_exec("c", "tty", &["/bin/sh", "-c", script], Some(&terminal));
    terminal.out.until("ready");
    let mut said = 0;
    while !stop.load(Ordering::Relaxed) {
        terminal.write(&format!("{said}\n"));
        terminal.out.until(&format!("<{said}>"));
        said += 1;
    }
    shim.kill("c", "tty", 9, false).unwrap();
    assert_eq!(shim.status("c", "tty"), 137);
    let text = terminal.out.end().replace('\r', "");
    let answers: Vec<_> = text.lines().filter(|line| line.starts_with('<')).collect();
    let wanted: Vec<_> = (0..said).map(|n| format!("<{n}>")).collect();
    assert_eq!(answers, wanted, "an answer is lost or doubled");
    shim.delete("c", "tty").unwrap();
    said
}

/// Runs containers that are killed for want of memory until `stop`; returns their number.
fn exhaust(shim: &Shim, stop: &AtomicBool) -> usize {
    for round in 0.. {
        if stop.load(Ordering::Relaxed) {
            return round;
        }
        let id = format!("oom{round}");
        let bundle = Bundle::probe(&["eat", "200000000", "+", "sleep", "1000"])
            .set("/linux/resources/memory", serde_json::json!({"limit": 16 << 20, "swap": 16 << 20}));
        shim.run(&id, &bundle);
        assert_eq!(shim.status(&id, ""), 137);
        shim.delete(&id, "").unwrap();
        let events = shim.events.until(&format!("delete {id}"));
        let at = |word: &str| events.iter().position(|w| w == word).unwrap_or_else(|| panic!("no {word}"));
        assert!(at(&format!("oom {id}")) < at(&format!("exit {id}/{id} 137")));
    }
    0
}

#[test]
fn upgrades_under_load_lose_nothing() {
    let rounds = std::env::var("BERTH_UPGRADES").map_or(40, |text| text.parse::<usize>().unwrap());
    let (shim, programs) = (Shim::start("load"), Programs::default());
    let output = fifo(shim.work(), "lines");
    let counted = thread::scope(|scope| {
        let file = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(&output).unwrap();
        let reader = scope.spawn(|| count_lines(file));
        let mut request = shim.request("c", &shell("i=0; while [ ! -e /stop ]; do i=$((i+1)); echo $i; done; exit 9"));
        let stop_file = Path::new(&request.bundle).join("rootfs/stop");
        request.stdout = output.to_str().unwrap().to_owned();
        shim.create_as(request).unwrap();
        shim.start_process("c", "").unwrap();
        shim.run("p", &shell("sleep 1000"));
        shim.pause("p").unwrap();
        let waits: Vec<_> = ["c", "c", "p", "p"]
            .map(|id| (id, shim.connection()))
            .into_iter()
            .map(|(id, client)| {
                let request = WaitRequest { id: id.into(), ..Default::default() };
                shim.runtime().spawn(async move {
                    client.wait(context::with_duration(CALL), &request).await.unwrap().exit_status
                })
            })
            .collect();
        under_load(&shim, &programs, rounds);
        assert_eq!(shim.phase("p", ""), "PAUSED");
        shim.resume("p").unwrap();
        shim.kill("p", "", 9, false).unwrap();
        std::fs::write(stop_file, "").unwrap();
        let statuses: Vec<_> = waits.into_iter().map(|wait| shim.runtime().block_on(wait).unwrap()).collect();
        assert_eq!(statuses, [9, 9, 137, 137]);
        shim.delete("c", "").unwrap();
        shim.delete("p", "").unwrap();
        reader.join().unwrap()
    });
    assert!(counted > rounds, "{counted} lines");
    for id in ["c", "p"] {
        shim.events.until(&format!("delete {id}"));
        assert_eq!(shim.events.exits(id).len(), 1);
    }
    shim.shut_down();
}

/// Upgrades the shim `rounds` times beside a load.
fn under_load(shim: &Shim, programs: &Programs, rounds: usize) {
    let stop = AtomicBool::new(false);
    let names = ["one", "two"].map(|name| programs.shim(name));
    let execs = AtomicUsize::new(0);
    let before = shim.size().0;
    thread::scope(|scope| {
        for runner in 0..RUNNERS {
            let (execs, stop) = (&execs, &stop);
            scope.spawn(move || execs.fetch_add(run_execs(shim, runner, stop), Ordering::Relaxed));
        }
        let probe = scope.spawn(|| probe(shim, &stop));
        let talk = scope.spawn(|| talk(shim, &stop));
        let exhaust = scope.spawn(|| exhaust(shim, &stop));
        let pauses: Result<Vec<_>, _> =
            (0..rounds).map(|round| shim.upgrade(&names[round % 2]).map(|answer| answer.pause)).collect();
        stop.store(true, Ordering::Relaxed);
        let mut pauses = pauses.unwrap();
        let (longest, said, killed) = (probe.join().unwrap(), talk.join().unwrap(), exhaust.join().unwrap());
        pauses.sort_unstable();
        let at = |part: usize| pauses[(pauses.len() - 1) * part / 100];
        println!("{rounds} upgrades: pause {} µs (median), {} (90 %), {} (most)", at(50), at(90), at(100));
        println!("longest State call {longest:?}, {said} answers of the terminal, {killed} out-of-memory kills");
    });
    let count = execs.load(Ordering::Relaxed);
    println!("{count} execs");
    assert_eq!(shim.events.words().iter().filter(|word| word.starts_with("exit c/r")).count(), count, "each exit once");
    until_true("the descriptors of the load to be closed", LONG, || shim.size().0 <= before);
}
