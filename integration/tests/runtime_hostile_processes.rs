//! Attacks of processes inside: descriptors as working directories, neighbours that open files of a starting container,
//! the runtime's own program as an interpreter, confusing names and files. CVE-2016-9962, -2019-5736, -2019-16884,
//! -2024-21626, -2026-47262, GHSA-5g49-rx9x-qfc6.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a test: what does not hold ends it")]

use berth_init::defence::Defence;
use berth_integration::{
    attack::held_by,
    bundle::Bundle,
    case::{Refusal, refused, skipped_on_runc},
    host_files::HostFiles,
    runtime::{Runtime, wait_until},
};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use std::fs::{self, File};

/// CVE-2024-21626: a leaked descriptor as the working directory leads to the host.
#[test]
fn descriptor_of_the_host_is_refused_as_working_directory() {
    let runtime = Runtime::new("cwd-fd");
    let host: std::os::fd::OwnedFd = File::open("/").unwrap().into();
    for fd in 3..32 {
        let bundle =
            Bundle::probe(&["report", "cwd", "list=."]).set("/process/cwd", json!(format!("/proc/self/fd/{fd}")));
        let out = runtime.on("run", "c1", &bundle).leak(17, host.try_clone().unwrap()).wait();
        assert!(out.code != 0 && out.stdout.is_empty(), "{fd}: {out:#?}");
    }
    runtime.assert_clean("run");
    runtime.start("c2", &Bundle::probe(&["sleep", "100"]));
    for fd in 3..32 {
        let cwd = format!("/proc/self/fd/{fd}");
        let call = runtime.call(&["exec", "--cwd", &cwd, "c2", "/probe", "report", "cwd", "list=."]);
        let out = call.leak(17, host.try_clone().unwrap()).wait();
        assert!(out.code != 0 && out.stdout.is_empty(), "{fd}: {out:#?}");
    }
}

/// A working directory through links of /proc leads into the container, or is refused.
#[test]
fn working_directory_through_proc_stays_inside_the_root() {
    let runtime = Runtime::new("cwd-proc");
    for cwd in [
        "/proc/self/cwd",
        "/proc/1/cwd",
        "/proc/self/root",
        "/proc/1/root/..",
        "/proc/self/root/../..",
        "/proc/self/fd",
    ] {
        let bundle = Bundle::probe(&["report", "cwd", "stat=./probe"]).set("/process/cwd", json!(cwd));
        let out = runtime.run("c1", &bundle);
        if out.code == 0 {
            let report = out.json();
            let inside = report["cwd"] == "/" && report["stat"]["./probe"]["type"] == "f";
            assert!(inside || report["cwd"].as_str().unwrap().starts_with("/proc"), "{cwd}: {report}");
        }
        runtime.assert_clean(cwd);
    }
}

/// CVE-2016-9962: a neighbour in the same pid namespace with the same capabilities cannot open the program, memory,
/// root or descriptors of a created container.
#[test]
fn neighbour_cannot_open_files_of_a_created_container() {
    held_by("neighbour", &[Defence::NotDumpable], opened_by_neighbour);
}

/// Returns the files of a created container that a neighbour opens, and the calls that it may make on it.
fn opened_by_neighbour(runtime: &Runtime) -> Vec<String> {
    runtime.start("b", &Bundle::probe(&["sleep", "100"]));
    let b = runtime.pid("b");
    let victim = Bundle::probe(&["sleep", "100"]).namespace("pid", &format!("/proc/{b}/ns/pid"));
    runtime.create("a", &victim).ok();
    let inner = inner_pid(runtime.pid("a"));
    let paths = ["exe", "mem", "root", "cwd", "maps", "environ", "fd/0", "root/etc"]
        .map(|what| format!("/proc/{inner}/{what}"));
    let words: Vec<&str> =
        ["exec", "b", "/probe", "open", "r"].into_iter().chain(paths.iter().map(String::as_str)).collect();
    let open = runtime.cmd(&words).ok().json()["open"].clone();
    let refused = |errno: &Value| *errno == libc::EACCES || *errno == libc::EPERM || *errno == libc::ESRCH;
    let opened = open.as_object().unwrap().iter().filter(|(_, errno)| !refused(errno));
    let mut got: Vec<_> = opened.map(|(path, errno)| format!("{path}: {errno}")).collect();
    let attach = format!("{}:16,{inner}", libc::SYS_ptrace);
    let read = format!("{}:{inner},0,0,0,0,0", libc::SYS_process_vm_readv);
    let calls = runtime.exec("b", &["/probe", "syscall", &attach, &read]).ok().json()["syscall"].clone();
    got.extend((calls[&attach] != -libc::EPERM).then(|| calls.to_string()));
    if !got.is_empty() {
        return got;
    }
    // The control of the neighbour: once the container is started, the same neighbour may open them.
    runtime.cmd(&["start", "a"]).ok();
    wait_until(
        || fs::read_link(format!("/proc/{}/exe", runtime.pid("a"))).unwrap().ends_with("probe"),
        || "never started".into(),
    );
    let open = runtime.cmd(&words).ok().json()["open"].clone();
    assert_eq!(open[&paths[0]], 0, "{open}");
    got
}

/// The same for a process that is being added, while a neighbour tries all the time.
#[test]
fn neighbour_cannot_open_files_of_a_starting_exec() {
    let runtime = Runtime::new("neighbour-exec");
    runtime.start("b", &Bundle::probe(&["hunt", "2", "+", "sleep", "100"]));
    let b = runtime.pid("b");
    let victim = Bundle::probe(&["sleep", "100"]).namespace("pid", &format!("/proc/{b}/ns/pid"));
    runtime.start("a", &victim);
    for _ in 0..20 {
        runtime.exec("a", &["/probe"]).ok();
        runtime.exec("b", &["/probe"]).ok();
    }
    wait_until(|| runtime.all_stdout().contains("\"hunt\""), || "the hunt never ended".into());
    let text = runtime.all_stdout();
    let hunt: Value = serde_json::from_str(text.lines().find(|l| l.contains("\"hunt\"")).unwrap()).unwrap();
    assert!(hunt["hunt"]["rounds"].as_u64().unwrap() > 100, "{hunt}");
    let caught = hunt["hunt"]["caught"].as_object().unwrap();
    // A process that runs the probe when it is examined again does not count.
    let prey: Vec<_> = caught.iter().filter(|(_, exe)| **exe != "/probe").collect();
    assert!(prey.is_empty(), "{prey:?}");
}

fn inner_pid(pid: u32) -> String {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|l| l.strip_prefix("NSpid:")).unwrap();
    line.split_whitespace().last().unwrap().to_owned()
}

/// CVE-2019-5736: a script with the interpreter /proc/self/exe makes the kernel execute the runtime's own program in
/// the container.
#[test]
fn runtime_binary_is_never_writable_from_inside() {
    let runtime = Runtime::new("self-exe");
    let digest = || Sha256::digest(fs::read(runtime.program()).unwrap());
    let before = digest();
    let bundle = Bundle::probe(&["hunt", "2", "+", "sleep", "100"]).file("evil", "#!/proc/self/exe\n", 0o755);
    let image = Bundle::probe(&[]).file("evil", "#!/proc/self/exe\n", 0o755).args(&["/evil"]);
    let out = runtime.run("c1", &image);
    assert!(out.code != 0, "{out:#?}");
    runtime.start("c2", &bundle);
    for _ in 0..30 {
        let out = runtime.exec("c2", &["/evil"]);
        assert!(out.code != 0, "{out:#?}");
    }
    wait_until(|| runtime.all_stdout().contains("\"hunt\""), || "the hunt never ended".into());
    let text = runtime.all_stdout();
    let hunt: Value = serde_json::from_str(text.lines().find(|l| l.contains("\"hunt\"")).unwrap()).unwrap();
    assert!(hunt["hunt"]["caught"].get("exe:2").is_none(), "opened for writing: {hunt}");
    assert_eq!(digest(), before);
}

/// The same attack without a race: a descriptor of the program, taken during a create, is opened for writing after the
/// program has ended. With an ordinary program that succeeds.
#[test]
fn runtime_binary_held_by_a_container_stays_sealed() {
    let runtime = || Runtime::new("sealed").with_a_copy();
    assert!(writable(&File::open(runtime().program()).unwrap()), "the control");
    assert!(!writable(&held_by_a_container(&runtime())), "a container's process gave away the runtime's program");
    let weak = Runtime::weakened("unsealed", &[Defence::SealedProgram]).with_a_copy();
    assert!(writable(&held_by_a_container(&weak)), "the control: a program that is not sealed");
}

/// Opens a program again through its descriptor and writes to it.
fn writable(held: &File) -> bool {
    let path = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(held));
    let opened = fs::OpenOptions::new().write(true).open(path);
    opened.and_then(|mut file| std::io::Write::write(&mut file, b"\x7f")).is_ok()
}

/// Returns the program of a created container's process, opened by a container that has ended.
fn held_by_a_container(runtime: &Runtime) -> File {
    runtime.create("c1", &Bundle::probe(&["sleep", "100"])).ok();
    let held = File::open(format!("/proc/{}/exe", runtime.pid("c1"))).unwrap();
    runtime.cmd(&["delete", "--force", "c1"]).ok();
    held
}

/// A process name can have any characters, also those of the rest of /proc/PID/stat.
#[test]
fn process_names_do_not_confuse_the_parser_of_proc_stat() {
    let runtime = Runtime::new("comm");
    for (n, name) in [") Z 1 1", "a) R 0", "x\ny", "(((", ")"].into_iter().enumerate() {
        let rename = format!("{}:15,@{name}", libc::SYS_prctl);
        runtime.start("c1", &Bundle::probe(&["syscall", &rename, "+", "say", "renamed", "+", "sleep", "100"]));
        wait_until(|| runtime.all_stdout().matches("renamed").count() > n, || "never renamed".into());
        assert_eq!(runtime.state("c1")["status"], "running", "{name:?}");
        runtime.exec("c1", &["/probe"]).ok();
        runtime.cmd(&["kill", "c1", "KILL"]).ok();
        runtime.until("c1", "stopped");
        runtime.cmd(&["delete", "c1"]).ok();
    }
}

/// CVE-2026-47262: the runtime reads the image's passwd with a bound on size and time, or not at all.
#[test]
fn monstrous_passwd_files_are_read_within_bounds() {
    if skipped_on_runc("passwd", "it reads the image's passwd to its end, and waits on a fifo") {
        return;
    }
    let runtime = Runtime::new("passwd");
    type Plant = fn(&Bundle);
    let make: [(&str, Plant); 4] = [
        ("sparse", |b| File::create(b.rootfs().join("etc/passwd")).unwrap().set_len(8 << 40).unwrap()),
        ("fifo", |b| {
            let path = b.rootfs().join("etc/passwd");
            rustix::fs::mknodat(rustix::fs::CWD, path, rustix::fs::FileType::Fifo, rustix::fs::Mode::RUSR, 0).unwrap();
        }),
        ("zeroes", |b| std::os::unix::fs::symlink("/dev/zero", b.rootfs().join("etc/passwd")).unwrap()),
        ("a directory", |b| fs::create_dir(b.rootfs().join("etc/passwd")).unwrap()),
    ];
    for (name, plant) in make {
        let bundle = Bundle::probe(&["report", "env"]).dir("etc", 0o755);
        plant(&bundle);
        // A runtime that reads such a file to its end exceeds the bound.
        let out = runtime.on("run", "c1", &bundle).wait();
        if out.code == 0 {
            assert_eq!(out.json()["env"]["HOME"], "/", "{name}");
        }
        runtime.assert_clean(name);
    }
}

/// CVE-2019-16884, CVE-2025-52881: writes of the runtime to procfs must not go to a file that is mounted over /proc.
#[test]
fn writes_to_procfs_are_not_redirected_by_mounts() {
    held_by("proc-redirect", &[Defence::NoMountInProc, Defence::HostProc], redirected);
}

/// Returns the writes to procfs that went to files of the host, and those that are lost.
fn redirected(runtime: &Runtime) -> Vec<String> {
    let host_files = HostFiles::new(runtime.work());
    let before = host_files.fingerprint();
    let at = host_files.path().display();
    let forward = json!({"net.ipv4.ip_forward": "1"});
    let set: &[fn(Bundle, &str) -> Bundle] = &[
        |b, host_files| b.unmount("/proc").mount("/proc", "bind", host_files, &["bind"]),
        |b, host_files| b.mount("/proc/sys", "bind", &format!("{host_files}/sys"), &["bind"]),
        |b, host_files| b.mount("/proc/sys/net", "bind", &format!("{host_files}/sys/net"), &["bind"]),
        |b, host_files| {
            let decoy = format!("{host_files}/sys/net/ipv4/ip_forward");
            b.mount("/proc/sys/net/ipv4/ip_forward", "bind", &decoy, &["bind"])
        },
        |b, host_files| b.mount("/proc/self/attr", "bind", &format!("{host_files}/self/attr"), &["bind"]),
    ];
    let mut got = vec![];
    for (n, set) in set.iter().enumerate() {
        let bundle = set(Bundle::probe(&["sleep", "100"]), &at.to_string())
            .set("/linux/sysctl", forward.clone())
            .set("/linux/maskedPaths", json!([]))
            .set("/linux/readonlyPaths", json!([]));
        let out = runtime.create("c1", &bundle);
        if out.code == 0 {
            // The host reads the real value through the container's own namespace.
            let pid = runtime.pid("c1");
            let value = fs::read_to_string(format!("/proc/{pid}/net/snmp")).unwrap();
            let ip = value.lines().nth(1).unwrap();
            got.extend((ip.split(' ').nth(1) != Some("1")).then(|| format!("{n}: forwarding is not on: {ip}")));
        }
        runtime.cmd(&["delete", "--force", "c1"]).ok();
        got.extend((host_files.fingerprint() != before).then(|| format!("{n}: {}", host_files.listing())));
        got.extend(runtime.residue());
    }
    got
}

#[test]
fn restrictions_that_would_be_ignored_are_refused() {
    refused("hostile-refused", REFUSED);
}

const REFUSED: &[Refusal] = &[
    Refusal {
        name: "an SELinux label without SELinux",
        set: |b| b.set("/process/selinuxLabel", json!("system_u:system_r:berth_none_t:s0")),
        says: &["selinux"],
    },
    Refusal {
        name: "an AppArmor profile without AppArmor",
        set: |b| b.set("/process/apparmorProfile", json!("berth-none")),
        says: &["apparmor"],
    },
    Refusal {
        name: "a cgroup file outside of the cgroup",
        set: |b| b.set("/linux/resources/unified", json!({"../x/pids.max": "1"})),
        says: &["unified"],
    },
];
