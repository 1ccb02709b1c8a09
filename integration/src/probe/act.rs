//! The actions of the probe, one function each.

use super::sys;
use serde_json::{Map, Value, json};
use std::{
    fs,
    io::{Read, Write},
    os::unix::net::UnixDatagram,
    time::Duration,
};

/// Carries out one action. `Some` is the exit status that ends the program. An unknown action ends it with 99.
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
        "zombies" => zombies(args),
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
        "go-on" => Some(super::counter::go_on(args.first()?).map_or(1, |()| 0)),
        "ask" => {
            println!("{}", json!({"ask": super::counter::ask(args.first()?).unwrap_or_else(|e| e.to_string())}));
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

/// `zombies N`: starts processes that end at once and are not reaped.
fn zombies(args: &[String]) -> Option<i32> {
    for _ in 0..number(args, 0).unwrap_or(1) {
        if sys::fork() == 0 {
            sys::exit(0);
        }
    }
    None
}

/// `notify LINE...`: sends one datagram to `$NOTIFY_SOCKET` and prints 0 or errno.
fn notify(said: &str) -> i32 {
    let path = std::env::var_os("NOTIFY_SOCKET").unwrap_or_default();
    let sent = UnixDatagram::unbound().and_then(|socket| socket.send_to(said.as_bytes(), path));
    sent.map_or_else(|e| e.raw_os_error().unwrap_or(-1), |_| 0)
}

fn number<T: std::str::FromStr>(args: &[String], n: usize) -> Option<T> {
    args.get(n)?.parse().ok()
}

/// `sleep SECONDS`: sleeps.
fn sleep(args: &[String]) -> Option<i32> {
    std::thread::sleep(Duration::from_secs_f64(number(args, 0).unwrap_or(0.0)));
    None
}

/// `open r|w|rw|path PATH...`: opens each path and prints 0 or errno for it.
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

/// `write PATH DATA`: writes and prints 0 or errno. It does not truncate an existing file, since kernel files are
/// written in place.
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

/// `syscall NR[:ARG,...]...`: makes each call and prints its result, minus errno for a failure. An argument is a
/// number, or `@text` for a pointer to that text.
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

/// Parses a decimal or 0x number of 64 bits, signed or not.
fn integer(text: &str) -> i64 {
    let (digits, radix) = text.strip_prefix("0x").map_or((text, 10), |hex| (hex, 16));
    i64::from_str_radix(digits, radix)
        .or_else(|_| u64::from_str_radix(digits, radix).map(u64::cast_signed))
        .unwrap_or(0)
}

/// `children N SECONDS`, `orphans N SECONDS`: starts processes that keep every descriptor open and sleep. The parent of
/// an orphan has ended.
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

/// `spew BYTES`: writes that many bytes to standard output. Each byte is the low byte of its position.
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

/// `count`: reads standard input to its end and prints the number and the sum of the bytes.
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

/// `halt`: stops every process that it sees, for ever.
fn halt() -> Option<i32> {
    let me = sys::call(libc::SYS_getpid, &[]);
    loop {
        let pids = fs::read_dir("/proc").ok()?.flatten();
        for pid in pids.filter_map(|entry| entry.file_name().to_str()?.parse::<i64>().ok()).filter(|pid| *pid != me) {
            sys::raw(libc::SYS_kill, [pid, i64::from(libc::SIGSTOP), 0, 0, 0, 0]);
        }
    }
}

/// `hunt SECONDS`: opens `exe`, `mem`, `root`, `cwd` and the descriptors of every process that it sees, except itself
/// and those that run its own program. It prints everything that it could open, with the program that the process runs
/// afterwards.
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
                    // The process ended in between.
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
