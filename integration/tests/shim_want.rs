//! A shim without resources: no thread, no descriptor, no disk space. A call that needs one is refused, the shim
//! survives, and calls that end containers succeed.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

use berth_integration::{
    bundle::Bundle,
    cgroup, procs,
    shim::{CALL, Shim},
    wait::{LONG, until_true},
};
use berth_proto::{
    task::{ConnectRequest, Mount},
    ttrpc::{Code, context},
};
use rustix::{
    mount::MountFlags,
    process::{Pid, Resource, Rlimit, getrlimit, prlimit},
};
use std::{
    fs,
    io::Write,
    path::{Path, PathBuf},
};

/// A cgroup with the shim alone, and a limit of its processes.
struct Room {
    dir: PathBuf,
    pid: i32,
}

impl Room {
    fn of(shim: &Shim) -> Self {
        let name = format!("{}-shim", shim.namespace);
        for hierarchy in cgroup::hierarchies() {
            let dir = hierarchy.join(&name);
            fs::create_dir(&dir).unwrap();
            if dir.join("pids.max").exists() {
                let room = Self { dir, pid: shim.pid };
                fs::write(room.dir.join("cgroup.procs"), shim.pid.to_string()).unwrap();
                return room;
            }
            fs::remove_dir(&dir).unwrap();
        }
        panic!("no hierarchy limits processes");
    }

    fn limit(&self, threads: &str) {
        fs::write(self.dir.join("pids.max"), threads).unwrap();
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        let _ = fs::write(self.dir.parent().unwrap().join("cgroup.procs"), self.pid.to_string());
        let _ = fs::remove_dir(&self.dir);
    }
}

fn sleeping() -> Bundle {
    Bundle::probe(&["sleep", "1000"])
}

/// Waits until the shim has only its first thread: an idle thread would serve a call.
fn at_rest(shim: &Shim) {
    until_true("the shim to come to rest", LONG, || shim.size().1 == 1);
}

/// Fills a pod: running containers (one to be killed by its pid, one with all its processes, one without its own pid
/// namespace), a created one, and an exec.
fn populate(shim: &Shim) {
    shim.run("named", &sleeping());
    shim.run_exec("named", "e", &["/probe", "sleep", "1000"], None);
    shim.exec("named", "late", &["/probe", "exit", "0"], None).unwrap();
    shim.run("whole", &sleeping());
    // More processes than the shim has spare descriptors.
    let many = ["children", "20", "1000", "+", "sleep", "1000"];
    shim.run("open", &Bundle::probe(&many).host_namespace("pid"));
    shim.run_exec("open", "e", &["/probe", "sleep", "1000"], None);
    shim.create("created", &sleeping()).unwrap();
    shim.create("unwanted", &sleeping()).unwrap();
    at_rest(shim);
}

/// Ends everything, which must succeed without the resource.
fn ends_all(shim: &Shim) {
    for _ in 0..3 {
        assert_eq!(shim.phase("named", ""), "RUNNING");
        assert_eq!(shim.pids("named").unwrap().len(), 2);
        shim.stats("named").unwrap();
    }
    shim.kill("named", "", 0, false).unwrap();
    shim.kill("named", "", 18, false).unwrap();
    shim.kill("open", "", 18, true).unwrap();
    shim.kill("named", "e", 15, false).unwrap();
    assert_eq!(shim.status("named", "e"), 128 + 15);
    assert_eq!(shim.delete("named", "e").unwrap().exit_status, 128 + 15);
    shim.delete("named", "late").unwrap();
    assert_eq!(shim.start_process("created", "").unwrap(), shim.state("created", "").unwrap().pid);
    for (id, all) in [("named", false), ("whole", true), ("open", false), ("created", false)] {
        shim.kill(id, "", 9, all).unwrap_or_else(|e| panic!("{id}: {e:?}"));
        assert_eq!(shim.status(id, ""), 137, "{id}");
    }
    assert_eq!(shim.status("open", "e"), 137);
    for id in ["named", "whole", "open", "created", "unwanted"] {
        shim.delete(id, "").unwrap_or_else(|e| panic!("{id}: {e:?}"));
        shim.events.until(&format!("exit {id}/{id} 137"));
        shim.events.until(&format!("delete {id}"));
    }
}

#[test]
fn shim_without_threads_ends_containers_and_refuses_the_rest() {
    let shim = Shim::start("threads");
    populate(&shim);
    let room = Room::of(&shim);
    room.limit("1");
    // The controls: calls that need a thread are refused.
    shim.create("more", &sleeping()).unwrap_err().is(Code::RESOURCE_EXHAUSTED, &["start a thread"]);
    shim.start_process("named", "late").unwrap_err().is(Code::RESOURCE_EXHAUSTED, &["start a thread"]);
    shim.pause("named").unwrap_err().is(Code::RESOURCE_EXHAUSTED, &["start a thread"]);
    shim.update("named", "{}").unwrap_err().is(Code::RESOURCE_EXHAUSTED, &["start a thread"]);
    ends_all(&shim);
    room.limit("max");
    shim.run("after", &sleeping());
    shim.end("after");
}

#[test]
fn shim_without_processes_ends_containers_by_its_threads() {
    let shim = Shim::start("processes");
    populate(&shim);
    let room = Room::of(&shim);
    // The shim has one spare thread, and cannot make a process.
    room.limit("2");
    shim.start_process("named", "late").unwrap_err().is(Code::RESOURCE_EXHAUSTED, &["clone"]);
    shim.create("more", &sleeping()).unwrap_err().is(Code::RESOURCE_EXHAUSTED, &["clone"]);
    ends_all(&shim);
    room.limit("max");
    shim.run("after", &sleeping());
    shim.end("after");
}

#[test]
fn shim_without_descriptors_ends_containers_and_refuses_the_rest() {
    let shim = Shim::start("descriptors");
    populate(&shim);
    let shim_pid = Pid::from_raw(shim.pid);
    let hard = getrlimit(Resource::Nofile).maximum;
    let taken = |n: u64| Path::new(&format!("/proc/{}/fd/{n}", shim.pid)).symlink_metadata().is_ok();
    let first_free = (0..).find(|n| !taken(*n)).unwrap();
    prlimit(shim_pid, Resource::Nofile, Rlimit { current: Some(first_free), maximum: hard }).unwrap();
    shim.create("more", &sleeping()).unwrap_err().is(Code::RESOURCE_EXHAUSTED, &["too many open files"]);
    shim.start_process("named", "late").unwrap_err().is(Code::RESOURCE_EXHAUSTED, &["too many open files"]);
    // A restarted containerd connects anew.
    let anew = shim.connection();
    shim.runtime().block_on(anew.connect(context::with_duration(CALL), &ConnectRequest::default())).unwrap();
    drop(anew);
    ends_all(&shim);
    prlimit(shim_pid, Resource::Nofile, Rlimit { current: hard, maximum: hard }).unwrap();
    shim.run("after", &sleeping());
    shim.end("after");
}

/// A small file system of the test's own.
struct Disk(PathBuf);

impl Disk {
    fn at(dir: &Path) -> Self {
        fs::create_dir_all(dir).unwrap();
        rustix::mount::mount("none", dir, "tmpfs", MountFlags::empty(), c"size=256k").unwrap();
        Self(dir.to_owned())
    }

    fn fill(&self) {
        let mut file = fs::File::create(self.0.join("filler")).unwrap();
        while file.write_all(&[0; 4096]).is_ok() {}
        // No entry fits either that would need a page of its own.
        for n in 0.. {
            let path = self.0.join(format!("filler{n}"));
            if fs::write(path, "x").is_err() {
                break;
            }
        }
    }

    fn empty(&self) {
        for entry in fs::read_dir(&self.0).unwrap().flatten() {
            if entry.file_name().to_string_lossy().starts_with("filler") {
                fs::remove_file(entry.path()).unwrap();
            }
        }
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        procs::unmount_below(&self.0);
    }
}

#[test]
fn shim_without_disk_space_ends_containers_and_refuses_the_rest() {
    let shim = Shim::start("disks");
    let states = Disk::at(&shim.work().join("state"));
    populate(&shim);
    states.fill();
    shim.create("more", &sleeping()).unwrap_err().is(Code::RESOURCE_EXHAUSTED, &["no space left on device"]);
    ends_all(&shim);
    states.empty();
    assert_eq!(fs::read_dir(shim.work().join("state").join(&shim.namespace)).unwrap().count(), 0);

    let bundles = Disk::at(&shim.work().join("bundles"));
    let (bundle, small) = (sleeping(), shim.work().join("bundles/b"));
    let rootfs = bundle.rootfs();
    let bundle = bundle.set("/root/path", rootfs.to_str().unwrap().into());
    let mut request = shim.request("more", &bundle);
    request.bundle = small.to_str().unwrap().into();
    fs::create_dir(&small).unwrap();
    fs::copy(bundle.path().join("config.json"), small.join("config.json")).unwrap();
    bundles.fill();
    shim.create_as(request.clone()).unwrap_err().is(Code::RESOURCE_EXHAUSTED, &["no space left on device"]);
    assert!(!shim.state_dir("more").exists());
    bundles.empty();
    shim.create_as(request).unwrap();
    shim.delete("more", "").unwrap();
    drop((states, bundles));
}

#[test]
fn busy_rootfs_does_not_delay_the_end_of_a_container() {
    let shim = Shim::start("busy");
    let bundle = sleeping();
    let rootfs = bundle.rootfs();
    let mount = Mount {
        type_: "bind".into(),
        source: rootfs.to_str().unwrap().into(),
        options: vec!["rbind".into(), "rw".into()],
        ..Default::default()
    };
    let mut request = shim.request("c1", &bundle);
    request.rootfs = vec![mount];
    shim.create_as(request).unwrap();
    shim.start_process("c1", "").unwrap();
    let mounted = || procs::mounts_below(&rootfs);
    assert_eq!(mounted().len(), 1);
    let held = fs::File::open(&rootfs).unwrap();
    // The control: the mount is busy.
    let plain = rustix::mount::unmount(&rootfs, rustix::mount::UnmountFlags::empty());
    assert_eq!(plain, Err(rustix::io::Errno::BUSY));
    shim.kill("c1", "", 9, false).unwrap();
    assert_eq!(shim.status("c1", ""), 137);
    shim.events.until("exit c1/c1 137");
    shim.delete("c1", "").unwrap();
    shim.events.until("delete c1");
    assert!(mounted().is_empty(), "{:?}", mounted());
    assert!(shim.log().contains("is busy"), "an operator is told");
    // The process in it still is.
    assert!(fs::read_dir(format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&held))).unwrap().count() > 0);
}
