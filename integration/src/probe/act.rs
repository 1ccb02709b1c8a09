//! What the probe does when told to, one small function an action.

use super::sys;
use serde_json::{Map, Value, json};
use std::{
    fs,
    io::{Read, Write},
    os::unix::net::UnixDatagram,
    time::Duration,
};

/// Does one action. `Some` ends the program with that status; words that are not understood end it with 99.
pub fn act(verb: &str, args: &[String]) -> Option<i32> {
    match verb {
        "exit" => Some(number(args, 0).unwrap_or(0)),
        "sleep" => sleep(args),
        "signal" => {
            let signal = sys::wait_signal();
            println!("{}", json!({ "signal": signal }));
            Some(128 + signal)
        }
        "await" => {
            println!("{}", json!({ "signal": sys::wait_signal() }));
            None
        }
        "say" => {
            println!("{}", args.join(" "));
            None
        }
        "complain" => {
            eprintln!("{}", args.join(" "));
            None
        }
        "open" => open(args),
        "write" => write(args),
        "syscall" => syscalls(args),
        "eat" => {
            let errno = sys::eat(number(args, 0)?);
            println!("{}", json!({ "eat": errno }));
            None
        }
        "orphans" => children(args, true),
        "children" => children(args, false),
        "zombies" => {
            for _ in 0..number(args, 0).unwrap_or(1) {
                if sys::fork() == 0 {
                    sys::exit(0);
                }
            }
            None
        }
        "reap" => {
            sys::reap();
            None
        }
        "spew" => spew(args),
        "count" => count(),
        "hunt" => hunt(args),
        "spy" => super::spy::spy(args),
        "halt" => halt(),
        "notify" => {
            println!("{}", json!({"notify": notify(&args.join("\n"))}));
            None
        }
        "exec" => {
            println!("{}", json!({"exec": sys::exec(args)}));
            Some(126)
        }
        other => {
            eprintln!("probe: no such action: {other}");
            Some(99)
        }
    }
}

/// `notify LINE...`: one datagram to `$NOTIFY_SOCKET`; 0 or errno.
fn notify(said: &str) -> i32 {
    let path = std::env::var_os("NOTIFY_SOCKET").unwrap_or_default();
    let sent = UnixDatagram::unbound().and_then(|socket| socket.send_to(said.as_bytes(), path));
    sent.map_or_else(|e| e.raw_os_error().unwrap_or(-1), |_| 0)
}

fn number<T: std::str::FromStr>(args: &[String], n: usize) -> Option<T> {
    args.get(n)?.parse().ok()
}

/// `sleep SECONDS`
fn sleep(args: &[String]) -> Option<i32> {
    std::thread::sleep(Duration::from_secs_f64(number(args, 0).unwrap_or(0.0)));
    None
}

/// `open r|w|rw|path PATH...`: prints 0 or errno for each.
fn open(args: &[String]) -> Option<i32> {
    let (mode, paths) = args.split_first()?;
    let flags = match mode.as_str() {
        "w" => libc::O_WRONLY,
        "rw" => libc::O_RDWR,
        "path" => libc::O_PATH,
        _ => libc::O_RDONLY,
    } | libc::O_NONBLOCK;
    let map: Map<_, _> = paths.iter().map(|p| (p.clone(), json!(sys::try_open(p, flags)))).collect();
    println!("{}", json!({ "open": map }));
    None
}

/// `write PATH DATA`: prints 0 or errno. An existing file is not truncated first: kernel files are written as they are.
fn write(args: &[String]) -> Option<i32> {
    let [path, data] = args else { return Some(99) };
    let done = fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .open(path)
        .and_then(|mut f| f.write_all(data.as_bytes()));
    let errno = done.map_or_else(|e| e.raw_os_error().unwrap_or(-1), |()| 0);
    println!("{}", json!({"write": {path: errno}}));
    None
}

/// `syscall NR[:ARG,...]...`: prints each result, minus errno for a failure. An argument is a number or `@text`,
/// a pointer to that text.
fn syscalls(args: &[String]) -> Option<i32> {
    let mut out = Map::new();
    for call in args {
        let (nr, rest) = call.split_once(':').unwrap_or((call, ""));
        let texts: Vec<Option<Vec<u8>>> =
            rest.split(',').map(|a| a.strip_prefix('@').map(|t| [t.as_bytes(), b"\0"].concat())).collect();
        let mut values = [0i64; 6];
        for ((reservation, arg), text) in values.iter_mut().zip(rest.split(',')).zip(&texts) {
            *reservation = match text {
                Some(t) => t.as_ptr().addr().cast_signed() as i64,
                None => integer(arg),
            };
        }
        out.insert(call.clone(), json!(sys::raw(integer(nr), values)));
    }
    println!("{}", json!({ "syscall": out }));
    None
}

/// A decimal or 0x number of 64 bits, signed or not.
fn integer(text: &str) -> i64 {
    let (digits, radix) = text.strip_prefix("0x").map_or((text, 10), |hex| (hex, 16));
    i64::from_str_radix(digits, radix)
        .or_else(|_| u64::from_str_radix(digits, radix).map(u64::cast_signed))
        .unwrap_or(0)
}

/// `children N SECONDS`, `orphans N SECONDS`: processes that hold every descriptor open and sleep; orphans have lost
/// their parent.
fn children(args: &[String], orphan: bool) -> Option<i32> {
    for _ in 0..number(args, 0).unwrap_or(1) {
        if sys::fork() != 0 {
            continue;
        }
        if orphan && sys::fork() != 0 {
            sys::exit(0);
        }
        sleep(args.get(1..).unwrap_or_default());
        sys::exit(0);
    }
    None
}

/// `spew BYTES`: that many bytes of a known pattern (the low byte of the position) on standard output.
fn spew(args: &[String]) -> Option<i32> {
    let mut left: usize = number(args, 0).unwrap_or(0);
    let piece: Vec<u8> = (0..=255u8).cycle().take(65536).collect();
    let mut out = std::io::stdout().lock();
    while left > 0 {
        let part = piece.get(..left.min(piece.len()))?;
        if out.write_all(part).is_err() {
            return Some(1);
        }
        left -= part.len();
    }
    out.flush().err().map(|_| 1)
}

/// `count`: reads standard input to its end and prints the number of bytes and their sum.
fn count() -> Option<i32> {
    let (mut total, mut sum) = (0u64, 0u64);
    let mut buffer = vec![0u8; 65536];
    loop {
        match std::io::stdin().read(&mut buffer) {
            Ok(0) => break,
            Ok(n) => {
                total += n as u64;
                sum += buffer.iter().take(n).map(|b| u64::from(*b)).sum::<u64>();
            }
            Err(e) => {
                println!("{}", json!({"count": {"error": e.to_string()}}));
                return Some(1);
            }
        }
    }
    println!("{}", json!({"count": {"bytes": total, "sum": sum}}));
    None
}

/// `halt`: for ever stops every process that comes in sight.
fn halt() -> Option<i32> {
    let me = sys::call(libc::SYS_getpid, &[]);
    loop {
        let pids = fs::read_dir("/proc").ok()?.flatten();
        for pid in pids.filter_map(|entry| entry.file_name().to_str()?.parse::<i64>().ok()).filter(|pid| *pid != me) {
            sys::raw(libc::SYS_kill, [pid, i64::from(libc::SIGSTOP), 0, 0, 0, 0]);
        }
    }
}

/// `hunt SECONDS`: for that long opens `exe`, `mem`, `root`, `cwd` and descriptors of every process in sight but itself and
/// those that run its own program; prints what it got hold of, and the program that the process had afterwards.
fn hunt(args: &[String]) -> Option<i32> {
    const PREY: [(&str, i32); 8] = [
        ("exe", libc::O_RDONLY),
        ("exe", libc::O_RDWR),
        ("mem", libc::O_RDONLY),
        ("root", libc::O_PATH),
        ("cwd", libc::O_PATH),
        ("fd/3", libc::O_RDONLY),
        ("fd/4", libc::O_RDONLY),
        ("fd/5", libc::O_RDONLY),
    ];
    let end = std::time::Instant::now() + Duration::from_secs_f64(number(args, 0).unwrap_or(1.0));
    let me = sys::call(libc::SYS_getpid, &[]).to_string();
    let own = fs::read_link("/proc/self/exe").ok()?;
    let mut caught: Map<String, Value> = Map::new();
    let mut rounds = 0u64;
    while std::time::Instant::now() < end {
        rounds += 1;
        for entry in fs::read_dir("/proc").ok()?.flatten() {
            let pid = entry.file_name().to_string_lossy().into_owned();
            let exe = format!("/proc/{pid}/exe");
            if pid == me || pid.parse::<u32>().is_err() || fs::read_link(&exe).is_ok_and(|e| e == own) {
                continue;
            }
            for (what, flags) in PREY {
                if sys::try_open(&format!("/proc/{pid}/{what}"), flags) != 0 {
                    continue;
                }
                let program = match fs::read_link(&exe) {
                    Ok(path) => path.to_string_lossy().into_owned(),
                    // Gone in between.
                    Err(e) if matches!(e.raw_os_error(), Some(libc::ENOENT | libc::ESRCH)) => continue,
                    Err(e) => e.to_string(),
                };
                caught.insert(format!("{what}:{flags}"), json!(program));
            }
        }
    }
    println!("{}", json!({"hunt": {"rounds": rounds, "caught": caught}}));
    None
}
