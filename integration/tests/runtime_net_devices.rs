//! `linux.netDevices`: devices that move into a container, and return if it fails.
//!
//! The host of each test is a network namespace of its thread, which the thread's children inherit, so nothing stays.
//! The devices are veth pairs, which every kernel that runs containers has.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a test: what does not hold ends it")]

use berth_integration::{
    bundle::Bundle,
    case::skipped_on_runc,
    runtime::{Output, Runtime},
    tools,
};
use nix::sched::{CloneFlags, setns, unshare};
use serde_json::{Value, json};
use std::{fs::File, os::fd::AsRawFd, process::Command};

/// Moves this thread and its future children into a new network namespace.
fn alone() -> File {
    unshare(CloneFlags::CLONE_NEWNET).unwrap();
    File::open("/proc/thread-self/ns/net").unwrap()
}

/// Makes another network namespace and returns it with its path.
fn another() -> (File, String) {
    let file = std::thread::spawn(alone).join().unwrap();
    let path = format!("/proc/{}/fd/{}", std::process::id(), file.as_raw_fd());
    (file, path)
}

/// Runs busybox's ip(8) in the namespace of this thread.
#[track_caller]
fn ip(line: &str) -> String {
    let out = Command::new(tools::tool("BUSYBOX")).arg("ip").args(line.split(' ')).output().unwrap();
    assert!(out.status.success(), "ip {line}: {}", String::from_utf8_lossy(&out.stderr));
    String::from_utf8(out.stdout).unwrap()
}

/// Runs ip(8) in another namespace.
fn ip_in(namespace: &File, line: &str) -> String {
    let there = || {
        setns(namespace, CloneFlags::CLONE_NEWNET).unwrap();
        ip(line)
    };
    std::thread::scope(|scope| scope.spawn(there).join().unwrap())
}

/// Returns a container that prints a device as ip(8) does.
fn showing(device: &str, devices: Value) -> Bundle {
    Bundle::busybox(&["/bin/ip", "address", "show", "dev", device], &["ip"]).set("/linux/netDevices", devices)
}

/// Makes a veth pair of this name and `veth0`, and runs these lines of ip(8).
#[track_caller]
fn pair(name: &str, lines: &[&str]) {
    ip(&format!("link add {name} type veth"));
    lines.iter().for_each(|line| drop(ip(line)));
}

const DRESSED: [&str; 5] = [
    "link set d0 mtu 1789",
    "link set d0 address 00:11:22:33:44:55",
    "address add 169.254.169.77/32 dev d0",
    "address add 10.9.8.7/24 dev d0",
    "address add 127.0.0.33/8 scope host dev d0",
];

#[track_caller]
fn is_dressed(out: &str, name: &str) {
    for word in [name, "mtu 1789 ", "link/ether 00:11:22:33:44:55 ", " 169.254.169.77/32 ", " 10.9.8.7/24 ", "UP"] {
        assert!(out.contains(word), "no {word:?} in {out}");
    }
    assert!(!out.contains("127.0.0.33"), "{out}");
}

#[test]
fn moved_device_keeps_its_addresses_and_settings() {
    let runtime = Runtime::new("netdev");
    let _host = alone();
    for (n, (bundle, name)) in [
        (showing("d0", json!({"d0": {}})), "d0"),
        (showing("eth0", json!({"d0": {"name": "eth0"}})), "eth0"),
        (showing("eth0", json!({"d0": {"name": "eth0"}})).mapped(), "eth0"),
    ]
    .into_iter()
    .enumerate()
    {
        pair("d0", &DRESSED);
        is_dressed(&runtime.run(&format!("c{n}"), &bundle).ok().stdout, name);
        // A virtual device and its peer disappear with their namespace, after a moment.
        let left = || ip("link").contains("veth0");
        berth_integration::wait::until_true("the pair to go", berth_integration::wait::LONG, || !left());
    }
    runtime.assert_clean("moved devices");
}

#[test]
fn joined_network_namespace_keeps_its_devices() {
    let runtime = Runtime::new("netdev-path");
    let _host = alone();
    let (namespace, path) = another();
    pair("d0", &DRESSED);
    let bundle = showing("eth0", json!({"d0": {"name": "eth0"}})).namespace("network", &path);
    is_dressed(&runtime.run("c1", &bundle).ok().stdout, "eth0");
    is_dressed(&ip_in(&namespace, "address show dev eth0"), "eth0");
    assert!(!ip("link").contains(": d0@"), "{}", ip("link"));
}

/// The kernel removes IPv6 addresses from a device that goes down.
#[test]
fn ipv6_addresses_of_an_up_device_are_kept() {
    if skipped_on_runc("ipv6_addresses_of_an_up_device_are_kept", "it brings the device down before it reads them") {
        return;
    }
    let runtime = Runtime::new("netdev-v6");
    let _host = alone();
    pair("d0", &["link set veth0 up", "link set d0 up", "address add fd00:9::7/64 dev d0"]);
    let out = runtime.run("c1", &showing("d0", json!({"d0": {}}))).ok();
    assert!(out.stdout.contains("inet6 fd00:9::7/64 scope global"), "{out:#?}");
}

/// The device exists under its new name when sysctls are set, and hooks find it.
#[test]
fn sysctls_of_a_device_are_set_after_its_move() {
    let runtime = Runtime::new("netdev-sysctl");
    let _host = alone();
    pair("d0", &[]);
    let bundle = Bundle::busybox(&["/bin/cat", "/proc/sys/net/ipv4/conf/eth0/rp_filter"], &["cat"])
        .set("/linux/netDevices", json!({"d0": {"name": "eth0"}}))
        .set("/linux/sysctl", json!({"net.ipv4.conf.eth0.rp_filter": "2"}));
    assert_eq!(runtime.run("c1", &bundle).ok().stdout, "2\n");
}

/// Whatever makes the create fail, the device is back on the host with its addresses and settings.
#[test]
fn failed_container_gives_its_devices_back() {
    if skipped_on_runc("failed_container_gives_its_devices_back", "they go with its namespace, or stay in it") {
        return;
    }
    let runtime = Runtime::new("netdev-back");
    let _host = alone();
    let (namespace, path) = another();
    pair("d0", &DRESSED);
    for line in ["address add fd00:9::7/64 dev d0", "link set veth0 up", "link set d0 up"] {
        ip(line);
    }
    // The first two fail after the move into the container's namespace.
    ip_in(&namespace, "link add taken type veth");
    let fail = json!([{"path": "/bin/false", "args": ["false"]}]);
    let moved = || showing("ours", json!({"d0": {"name": "ours"}}));
    for (what, bundle, says) in [
        ("a hook", moved().namespace("network", &path).set("/hooks", json!({"createRuntime": fail})), "hook"),
        ("a hook", moved().set("/hooks", json!({"createContainer": fail})), "hook"),
        ("no second device", moved().set("/linux/netDevices/e0", json!({})), "e0"),
        (
            "a name that is taken",
            moved().namespace("network", &path).set("/linux/netDevices/veth0", json!({"name": "taken"})),
            "taken: file exists",
        ),
    ] {
        let before = ip("address show dev d0");
        runtime.run("c1", &bundle).fails(1, &[says]);
        // The comparison leaves out the number, and the state of duplicate address detection.
        let sorted = |text: &str| {
            let lines = text.lines().map(|line| line.trim().replace(" tentative", ""));
            let mut lines: Vec<_> = lines.filter(|l| l.starts_with("inet") && !l.contains(" fe80:")).collect();
            lines.sort_unstable();
            lines
        };
        let after = ip("address show dev d0");
        assert_eq!(sorted(&after), sorted(&before), "{what}");
        assert!(["UP", "mtu 1789", "00:11:22:33:44:55"].iter().all(|word| after.contains(word)), "{what}: {after}");
        assert!(!ip_in(&namespace, "link").contains("ours"), "{what}");
        runtime.assert_clean(what);
    }
}

#[test]
fn impossible_net_devices_are_refused() {
    let runtime = Runtime::new("netdev-bad");
    let _host = alone();
    pair("d0", &["link set d0 up"]);
    let run = |devices: Value| runtime.run("c1", &showing("d0", devices));
    let refused = |out: Output, words: &[&str]| {
        assert!(out.code == 1, "{out:#?}");
        out.fails(1, words);
        assert!(ip("address show dev d0").contains("UP"));
        runtime.assert_clean("a refused device");
    };
    refused(run(json!({"nosuch": {}})), &["nosuch", "link not found for interface nosuch on runtime namespace"]);
    refused(run(json!({"d0": {"name": "a b"}})), &["invalid network device name", "a b"]);
    refused(run(json!({"a/b": {}})), &["invalid network device name", "a/b"]);
    let shared = showing("d0", json!({"d0": {}})).host_namespace("network").unmount("/sys");
    refused(runtime.run("c1", &shared), &["unable to move network devices without a NET namespace"]);
    if !skipped_on_runc(
        "impossible_net_devices_are_refused",
        "brings lo down and fails then; takes two devices for one name",
    ) {
        refused(run(json!({"lo": {}})), &["linux.netDevices.lo"]);
        refused(
            run(json!({"d0": {"name": "x"}, "veth0": {"name": "x"}})),
            &["linux.netDevices.veth0", "another device"],
        );
    }
}
