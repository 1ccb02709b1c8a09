//! Unusual input of callers: invalid UTF-8, many groups, long socket paths, descriptors and signals that the caller
//! left in some state.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a test: what does not hold ends it")]

use berth_integration::{
    bundle::Bundle,
    case::skipped_on_runc,
    console::ConsoleSocket,
    runtime::{Runtime, is_runc, wait_until},
};
use serde_json::{Value, json};
use std::{
    fs::{self, File},
    os::unix::{fs::PermissionsExt, net::UnixListener},
    path::{Path, PathBuf},
};

/// The uid of an unprivileged caller without an entry in passwd.
const USER: u32 = 65_529;

/// Replaces `mark` in a file by bytes that a JSON library would not write.
fn spoil(path: &Path, mark: &str, bytes: &[u8]) {
    let text = fs::read(path).unwrap();
    let at = text.windows(mark.len()).position(|window| window == mark.as_bytes()).unwrap();
    fs::write(path, [&text[..at], bytes, &text[at + mark.len()..]].concat()).unwrap();
}

/// Go's parser reads one replacement character for each invalid byte and for each unpaired surrogate.
#[test]
fn invalid_utf_8_is_read_as_go_reads_it() {
    let runtime = Runtime::new("texts");
    let rows: [(&[u8], &str); 5] = [
        (b"a\xffb", "a\u{fffd}b"),
        (b"\xe2\x82", "\u{fffd}\u{fffd}"),
        (br"\ud800x", "\u{fffd}x"),
        (br"\udc00\ud83d\ude00", "\u{fffd}\u{1f600}"),
        ("ü".as_bytes(), "ü"),
    ];
    let process = runtime.work().join("process.json");
    runtime.start("c0", &Bundle::probe(&["sleep", "100"]));
    for (bytes, read) in rows {
        let bundle = Bundle::probe(&["report", "env"])
            .set("/process/env", json!(["X=MARK"]))
            .set("/annotations", json!({"org.example": "NOTE"}));
        let call = runtime.on("run", "c1", &bundle);
        spoil(&bundle.path().join("config.json"), "MARK", bytes);
        spoil(&bundle.path().join("config.json"), "NOTE", bytes);
        assert_eq!(call.wait().ok().json()["env"]["X"], read, "{}", bytes.escape_ascii());
        let args = ["/probe", "report", "env"];
        fs::write(&process, json!({"args": args, "cwd": "/", "env": ["X=MARK"]}).to_string()).unwrap();
        spoil(&process, "MARK", bytes);
        let out = runtime.cmd(&["exec", "--process", process.to_str().unwrap(), "c0"]).ok();
        assert_eq!(out.json()["env"]["X"], read, "exec: {}", bytes.escape_ascii());
        let limits = runtime.work().join("limits.json");
        fs::write(&limits, json!({"pids": {"limit": 99}, "unknown": "MARK"}).to_string()).unwrap();
        spoil(&limits, "MARK", bytes);
        runtime.cmd(&["update", "--resources", limits.to_str().unwrap(), "c0"]).ok();
    }
    // Malformed JSON stays an error.
    let bundle = Bundle::probe(&["report"]).set("/hostname", json!("MARK"));
    let call = runtime.on("run", "c1", &bundle);
    spoil(&bundle.path().join("config.json"), "\"MARK\"", b"\xff");
    call.wait().fails(1, &[]);
}

#[test]
fn process_has_as_many_groups_as_the_kernel_allows() {
    const MOST: u32 = 65_536;
    let runtime = Runtime::new("many-groups");
    // The groups are not in the kernel's sorted order.
    let groups =
        |n: u32| json!({"uid": 7, "gid": 7, "additionalGids": (0..n).rev().map(|gid| gid + 5).collect::<Vec<_>>()});
    runtime.start("c0", &Bundle::probe(&["sleep", "100"]));
    let process = runtime.work().join("process.json");
    for n in [1024, MOST] {
        let bundle = Bundle::probe(&["report", "ids"]).set("/process/user", groups(n));
        let wanted = json!((5..n + 5).collect::<Vec<_>>());
        let has = |report: &Value| report["ids"]["groups"] == wanted;
        assert!(has(&runtime.run("c1", &bundle).ok().json()), "{n} groups");
        fs::write(&process, json!({"args": ["/probe", "report", "ids"], "cwd": "/", "user": groups(n)}).to_string())
            .unwrap();
        let out = runtime.cmd(&["exec", "--process", process.to_str().unwrap(), "c0"]).ok();
        assert!(has(&out.json()), "exec: {n} groups");
    }
    let says: &[&str] = if is_runc() { &[] } else { &["process.user.additionalGids", "65537", "65536"] };
    runtime.run("c1", &Bundle::probe(&["report"]).set("/process/user", groups(MOST + 1))).fails(1, says);
}

#[test]
fn user_in_3000_groups_runs_containers() {
    let groups: Vec<_> = (0..3000).map(|gid| (gid + 100_000).to_string()).collect();
    let runtime = Runtime::of_user("user-in-groups", USER, &groups.join(","));
    let out = runtime.run("c1", &Bundle::probe(&["report", "ids"]).rootless(USER)).ok();
    // No name inside stands for any of these groups.
    assert_eq!(out.json()["ids"]["groups"].as_array().unwrap().len(), 3000);
    runtime.start("c2", &Bundle::probe(&["sleep", "100"]).rootless(USER));
    let pid = runtime.pid("c2");
    let comm = || fs::read_to_string(format!("/proc/{pid}/comm")).unwrap();
    wait_until(|| comm().trim() == "probe", comm);
    let out = runtime.exec("c2", &["/probe", "report", "ids"]).ok();
    assert_eq!(out.json()["ids"]["groups"].as_array().unwrap().len(), 3000);
}

/// Returns a directory whose path is longer than sun_path.
fn deep(runtime: &Runtime) -> PathBuf {
    let dir = runtime.work().join("d".repeat(100)).join("e".repeat(100));
    fs::create_dir_all(&dir).unwrap();
    dir
}

#[test]
fn sockets_with_paths_longer_than_sun_path_are_reached() {
    if skipped_on_runc("deep sockets", "it hands the whole path to connect(2)") {
        return;
    }
    let runtime = Runtime::new("deep-sockets");
    let dir = deep(&runtime);
    let console = ConsoleSocket::new(runtime.work());
    let long = dir.join("console.sock");
    fs::rename(console.path(), &long).unwrap();
    let flag = ["--console-socket", long.to_str().unwrap()];
    let bundle = Bundle::probe(&["report", "tty", "+", "signal"]).set("/process/terminal", json!(true));
    runtime.on("create", "c1", &bundle).with(&flag).wait().ok();
    let mut terminal = console.receive();
    runtime.cmd(&["start", "c1"]).ok();
    assert!(terminal.read_until("\"tty\"").contains("\"tty\""));
    let words = ["exec", "--tty", "--detach", "c1", "/probe", "report", "tty"];
    runtime.call(&words).with(&flag).wait().ok();
    assert!(console.receive().read_until("\"tty\"").contains("\"tty\""));

    let (made, long) = (runtime.work().join("s"), dir.join("s".repeat(200)));
    let listener = UnixListener::bind(&made).unwrap();
    fs::rename(&made, &long).unwrap();
    let words = ["exec", "--detach", "--pidfd-socket", long.to_str().unwrap(), "c1", "/probe", "exit", "0"];
    runtime.cmd(&words).ok();
    listener.accept().unwrap();
    // A path that does not exist is named as before.
    let gone = dir.join("gone");
    let out = runtime.on("create", "c2", &bundle).with(&["--console-socket", gone.to_str().unwrap()]).wait();
    out.fails(1, &["dial unix", "no such file or directory"]);
}

/// execvp(3) resolves such directories below the working directory of the process. Go's LookPath, and so runc, refuses
/// a program that it finds there.
#[test]
fn relative_directories_in_path_are_searched() {
    if skipped_on_runc("relative directories in PATH", "exec.ErrDot") {
        return;
    }
    let runtime = Runtime::new("relative-path");
    let bundle = |path: &str| {
        Bundle::probe(&[])
            .link("w/tool", "/probe")
            .link("w/below/other", "/probe")
            .set("/process/cwd", json!("/w"))
            .set("/process/env", json!([format!("PATH={path}")]))
    };
    for (path, tool) in [
        ("", "tool"),
        (":/none", "tool"),
        ("/none:", "tool"),
        ("/none::/nowhere", "tool"),
        (".", "tool"),
        ("/none:.", "tool"),
        ("below", "other"),
        ("./below", "other"),
        ("../w/below:/none", "other"),
    ] {
        let bundle = bundle(path).args(&[tool, "report"]);
        let report = runtime.run("c1", &bundle).ok().json();
        assert_eq!(report["args"][0], tool, "PATH={path}: {report:#}");
        let out = runtime.run("c1", &bundle.args(&["nothing"]));
        out.fails(1, &["executable file not found in $PATH"]);
    }
    runtime.start("c2", &bundle("below").args(&["/probe", "sleep", "100"]));
    runtime.cmd(&["exec", "c2", "other", "exit", "0"]).ok();
    runtime
        .cmd(&["exec", "--cwd", "/", "c2", "other", "exit", "0"])
        .fails(255, &["executable file not found in $PATH"]);
    runtime.cmd(&["exec", "--cwd", "/w", "--env", "PATH=", "c2", "tool", "exit", "0"]).ok();
}

/// The runtime's own log is open when the descriptors are counted.
#[test]
fn preserve_fds_passes_no_descriptor_of_the_runtime() {
    if skipped_on_runc("descriptors of its own", "it passes them on (runc#5474)") {
        return;
    }
    let runtime = Runtime::new("own-descriptors");
    let log = runtime.work().join("log");
    let global = ["--log", log.to_str().unwrap()];
    let null = || File::open("/dev/null").unwrap();
    let run = |flag: &str| {
        let bundle = Bundle::probe(&["report", "fds"]);
        runtime.on("run", "c1", &bundle).global(&global).with(&["--preserve-fds", flag])
    };
    run("1").wait().fails(1, &["preserved-fd 0 (of 1)", "file descriptor 3 was not passed"]);
    run("2").leak(3, null()).wait().fails(1, &["file descriptor 4 was not passed"]);
    run("3").leak(3, null()).leak(5, null()).wait().fails(1, &["file descriptor 4 was not passed"]);
    let fds = run("1").leak(3, null()).leak(4, null()).wait().ok().json()["fds"].clone();
    assert_eq!(fds.as_object().unwrap().len(), 4, "{fds:#}");
    runtime.start("c2", &Bundle::probe(&["sleep", "100"]));
    let words = ["exec", "--preserve-fds", "1", "c2", "/probe", "report", "fds"];
    runtime.call(&words).global(&global).wait().fails(255, &["file descriptor 3 was not passed"]);
    // Sockets of socket activation are passed as well.
    let sh = ["/bin/sh", "-c", "LISTEN_PID=$$ LISTEN_FDS=2 exec \"$0\" \"$@\""];
    run("0").leak(3, null()).through(&sh).wait().fails(1, &["LISTEN_FDS=2", "file descriptor 4 was not passed"]);
}

/// A command that ignores signals. A Go program keeps HUP and INT ignored.
fn ignoring() -> [String; 3] {
    let signals = if is_runc() { "QUIT TERM USR1 ALRM CHLD" } else { "HUP INT QUIT PIPE TERM USR1 ALRM CHLD TTOU" };
    ["/bin/sh".to_owned(), "-c".to_owned(), format!("ulimit -Sn 777; umask 027; trap '' {signals}; exec \"$0\" \"$@\"")]
}

#[test]
fn payload_ignores_no_signal_that_its_caller_ignored() {
    let runtime = Runtime::new("ignored-signals");
    let through = ignoring();
    let through = through.each_ref().map(String::as_str);
    let none = json!({"blocked": [], "ignored": []});
    let out = runtime.on("run", "c1", &Bundle::probe(&["report", "signals"])).through(&through).wait().ok();
    assert_eq!(out.json()["signals"]["ignored"], none["ignored"], "{out:#?}");
    assert_eq!(out.json()["signals"]["blocked"], none["blocked"], "{out:#?}");
    runtime.on("create", "c2", &Bundle::probe(&["report", "signals", "+", "signal"])).through(&through).wait().ok();
    runtime.call(&["start", "c2"]).through(&through).wait().ok();
    let exec = runtime.call(&["exec", "c2", "/probe", "report", "signals"]).through(&through).wait().ok();
    assert_eq!(exec.json()["signals"]["ignored"], none["ignored"], "{exec:#?}");
}

/// Hooks that run in the runtime's namespaces inherit everything but the signals.
#[test]
fn hooks_inherit_the_limits_and_umask_of_the_caller() {
    let runtime = Runtime::new("programs");
    let dir = runtime.work().join("notes");
    fs::create_dir(&dir).unwrap();
    let hook = |kind: &str| {
        let script = format!(
            "cat >/dev/null; exec >{}/{kind}; grep -E 'SigIgn|SigBlk' /proc/self/status; ulimit -Sn; umask; ls /proc/self/fd",
            dir.display()
        );
        json!([{"path": "/bin/sh", "args": ["sh", "-c", script], "env": ["PATH=/bin:/usr/bin"]}])
    };
    let kinds = ["createRuntime", "createContainer", "poststart", "poststop"];
    // So many mounts make the runtime raise its own limit of open files.
    let mut bundle = Bundle::probe(&["exit", "0"]).set("/hooks", json!({}));
    for n in 0..80 {
        bundle = bundle.mount(&format!("/mnt/{n}"), "tmpfs", "tmpfs", &[]);
    }
    let bundle = kinds.iter().fold(bundle, |bundle, kind| bundle.set(&format!("/hooks/{kind}"), hook(kind)));
    let through = ignoring();
    let call = runtime.on("run", "c1", &bundle.set("/root/readonly", json!(false)));
    call.through(&through.each_ref().map(String::as_str)).wait().ok();
    for kind in kinds {
        let said = fs::read_to_string(dir.join(kind)).unwrap();
        let lines: Vec<_> = said.split_whitespace().collect();
        let none = "0000000000000000";
        assert_eq!(lines[..3], ["SigBlk:", none, "SigIgn:"], "{kind}: {said}");
        // posix_spawn(3), which started the runtime here, ignores the C library's two own signals, and runc leaves them
        // ignored.
        let own = if is_runc() { 0x1_8000_0000 } else { 0 };
        assert_eq!(u64::from_str_radix(lines[3], 16).unwrap() & !own, 0, "{kind}: {said}");
        assert_eq!(lines[5], "0027", "{kind}: {said}");
        // runc gives its init the payload's limits at once.
        let limit = if is_runc() && kind == "createContainer" { "1024" } else { "777" };
        assert_eq!(lines[4], limit, "{kind}: {said}");
        // ls opens the directory itself, with the lowest free number. Hooks of runc's init inherit its descriptors.
        let few = lines[6..].iter().all(|fd| matches!(*fd, "0" | "1" | "2" | "3"));
        assert!(few || is_runc() && kind == "createContainer", "{kind}: {said}");
    }
}

/// newuidmap(1) is looked for in PATH.
#[test]
fn mapping_tools_inherit_the_limits_and_umask_of_the_caller() {
    if skipped_on_runc("newuidmap", "a Go program's children have its raised limit of open files") {
        return;
    }
    let runtime = Runtime::of_user("mapping-tools", USER, "0");
    let bin = runtime.work().join("bin");
    fs::create_dir(&bin).unwrap();
    let notes = runtime.work().join("notes");
    fs::create_dir(&notes).unwrap();
    fs::set_permissions(&notes, fs::Permissions::from_mode(0o777)).unwrap();
    let script = format!(
        "#!/bin/sh\nexec >{}/said 2>&1\ngrep -E 'SigIgn|SigBlk' /proc/self/status\nulimit -Sn\numask\nls /proc/$$/fd\nexit 1\n",
        notes.display()
    );
    for tool in ["newuidmap", "newgidmap"] {
        fs::write(bin.join(tool), &script).unwrap();
        fs::set_permissions(bin.join(tool), fs::Permissions::from_mode(0o755)).unwrap();
    }
    let maps = json!([{"containerID": 0, "hostID": USER, "size": 1}, {"containerID": 1, "hostID": 400_000, "size": 9}]);
    let mut bundle = Bundle::probe(&["exit", "0"])
        .rootless(USER)
        .set("/linux/uidMappings", maps.clone())
        .set("/linux/gidMappings", maps);
    for n in 0..80 {
        bundle = bundle.mount(&format!("/dev/shm/{n}"), "tmpfs", "tmpfs", &[]);
    }
    let through = ignoring();
    let call = runtime.on("create", "c1", &bundle).env("PATH", &format!("{}:/bin:/usr/bin", bin.display()));
    call.through(&through.each_ref().map(String::as_str)).wait().fails(1, &["newuidmap"]);
    let said = fs::read_to_string(notes.join("said")).unwrap();
    let lines: Vec<_> = said.split_whitespace().collect();
    let none = "0000000000000000";
    assert_eq!(lines[..6], ["SigBlk:", none, "SigIgn:", none, "777", "0027"], "{said}");
    assert!(lines[6..].iter().all(|fd| matches!(*fd, "0" | "1" | "2" | "10")), "{said}");
    runtime.assert_clean("a refused mapping");
}

/// A terminal must not interpret control characters from an image. A log file shows them escaped.
#[test]
fn control_characters_in_names_do_not_reach_a_terminal() {
    if skipped_on_runc("names on a terminal", "it writes them as they are") {
        return;
    }
    let runtime = Runtime::new("names");
    let name = "\u{1b}]0;owned\u{7}\u{1b}[2J\u{9b}1m";
    let bundle = Bundle::probe(&[]).args(&[name]).set("/process/env", json!(["PATH=/"]));
    let line = runtime.work().join("line");
    let words = format!(
        "{} --root {} run --bundle {} c1",
        runtime.program().display(),
        runtime.root().display(),
        bundle.path().display()
    );
    // This call writes config.json.
    drop(runtime.on("run", "c1", &bundle));
    let out = std::process::Command::new("script").args(["-qec", &words]).arg(&line).output().unwrap();
    let shown = String::from_utf8_lossy(&out.stdout).into_owned();
    assert!(shown.contains("owned"), "{shown:?}");
    let hostile = ["\u{1b}]", "\u{7}", "\u{1b}[2J", "\u{9b}"];
    assert!(!hostile.iter().any(|sequence| shown.contains(sequence)), "{shown:?}");
    // init's own message about a program that cannot be executed is filtered as well.
    let named = "/e\u{1b}[2J";
    let bundle = Bundle::probe(&[]).args(&[named]).file(&named[1..], "no program\n", 0o755);
    let out = runtime.run("c1", &bundle);
    assert!(out.code != 0 && out.stderr.contains("e?[2J") && !out.stderr.contains('\u{1b}'), "{out:#?}");
}
