//! The systemd cgroup driver on a bus that is missing, silent, refusing or lost: a clear error in bounded time, and
//! nothing left behind. The bus is the test's own, on every host.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test: what does not hold ends it")]

use berth_integration::{
    bundle::Bundle,
    case::skipped_on_runc,
    cgroup,
    fake_bus::{self, Behaviour, FakeBus},
    procs,
    runtime::{Call, Runtime},
};
use serde_json::json;
use std::path::Path;

const BUS: &str = "DBUS_SYSTEM_BUS_ADDRESS";
/// runc looks for systemd's directory first and has other words.
const OWN_WORDS: &str = "the words are berth's";

/// A slice of this test alone. Dropping it removes its directories, since no systemd does here.
struct Slice(String);

impl Slice {
    fn new(name: &str) -> Self {
        Self(format!("berth_bus_{}_{name}.slice", procs::name()))
    }

    fn bundle(&self) -> Bundle {
        Bundle::busybox(&["/bin/sleep", "1000"], &["sleep"])
            .set("/linux/cgroupsPath", json!(format!("{}:berth:c1", self.0)))
            .set("/linux/resources", json!({ "pids": { "limit": 50 } }))
    }

    /// Returns the directories of the container's scope.
    fn directories(&self) -> Vec<std::path::PathBuf> {
        cgroup::directories(&format!("/{}/berth-c1.scope", self.0))
    }
}

impl Drop for Slice {
    fn drop(&mut self) {
        cgroup::kill_and_remove(&format!("/{}", self.0));
    }
}

fn create<'a>(runtime: &'a Runtime, slice: &Slice, address: &str) -> Call<'a> {
    runtime.on("create", "c1", &slice.bundle()).global(&["--systemd-cgroup"]).env(BUS, address)
}

#[track_caller]
fn assert_nothing_left(runtime: &Runtime, slice: &Slice) {
    runtime.assert_clean("a refused create");
    let left = slice.directories();
    assert!(left.is_empty(), "{left:?}");
}

#[test]
fn missing_bus_is_named_in_the_error() {
    if skipped_on_runc("missing_bus_is_named_in_the_error", OWN_WORDS) {
        return;
    }
    let (runtime, slice) = (Runtime::new("bus-absent"), Slice::new("absent"));
    let socket = runtime.work().join("nobody");
    let says = format!("connect to the system bus at {}: no such file or directory", socket.display());
    create(&runtime, &slice, &fake_bus::address(&socket)).wait().fails(1, &["systemd cgroup driver", &says]);
    create(&runtime, &slice, "tcp:host=localhost").wait().fails(1, &[BUS, "tcp:host=localhost", "unix:path"]);
    assert_nothing_left(&runtime, &slice);
}

#[test]
fn silent_bus_fails_within_a_bound() {
    if skipped_on_runc("silent_bus_fails_within_a_bound", OWN_WORDS) {
        return;
    }
    let (runtime, slice) = (Runtime::new("bus-silent"), Slice::new("silent"));
    let bus = FakeBus::start(runtime.work(), &slice.0, Behaviour::Silent);
    create(&runtime, &slice, &bus.address()).wait().fails(1, &["connect to the system bus at", "no answer within"]);
    assert_nothing_left(&runtime, &slice);
}

#[test]
fn property_that_systemd_refuses_is_named() {
    if skipped_on_runc("property_that_systemd_refuses_is_named", OWN_WORDS) {
        return;
    }
    let (runtime, slice) = (Runtime::new("bus-refuses"), Slice::new("refuses"));
    let text = "Cannot set property TasksMax, or unknown property.";
    let bus = FakeBus::start(runtime.work(), &slice.0, Behaviour::Refuses("StartTransientUnit", text));
    create(&runtime, &slice, &bus.address()).wait().fails(1, &["start unit berth-c1.scope", text]);
    assert_nothing_left(&runtime, &slice);
    // If systemd does not name the property, the error names all of them.
    bus.becomes(Behaviour::Refuses("StartTransientUnit", "Invalid argument"));
    create(&runtime, &slice, &bus.address()).wait().fails(1, &["start unit berth-c1.scope", "one of ", "TasksMax"]);
    assert_nothing_left(&runtime, &slice);
    bus.becomes(Behaviour::Ends("failed"));
    create(&runtime, &slice, &bus.address()).wait().fails(1, &["start unit berth-c1.scope", "the job ended as"]);
    assert_nothing_left(&runtime, &slice);
}

/// Returns whether berth makes the cgroups of this host itself before systemd has the unit. The fake systemd of this
/// test never makes them.
fn directories_come_first(test: &str) -> bool {
    if cgroup::is_v2() {
        eprintln!("{test}: skipped, on cgroup v2 a scope's directory is made by systemd, and this bus makes none");
    }
    !cgroup::is_v2()
}

#[test]
fn one_unit_serves_a_container_from_create_to_delete() {
    let name = "one_unit_serves_a_container_from_create_to_delete";
    if skipped_on_runc(name, OWN_WORDS) || !directories_come_first(name) {
        return;
    }
    let (runtime, slice) = (Runtime::new("bus-obeys"), Slice::new("obeys"));
    let bus = FakeBus::start(runtime.work(), &slice.0, Behaviour::Obeys);
    create(&runtime, &slice, &bus.address()).wait().ok();
    let own = format!("/{}/berth-c1.scope", slice.0);
    assert_eq!(cgroup::value(&own, "pids/pids.max", "pids.max"), "50");
    runtime.call(&["update", "--pids-limit", "60", "c1"]).env(BUS, &bus.address()).wait().ok();
    assert_eq!(cgroup::value(&own, "pids/pids.max", "pids.max"), "60");
    runtime.call(&["delete", "--force", "c1"]).env(BUS, &bus.address()).wait().ok();
    let calls: Vec<String> = bus.calls().into_iter().filter(|call| call != "Get").collect();
    let want = ["StartTransientUnit", "SetUnitProperties", "GetUnit", "StopUnit", "ResetFailedUnit"];
    assert_eq!(calls, want);
    assert_nothing_left(&runtime, &slice);
}

#[test]
fn unknown_access_letters_of_a_device_rule_are_warned_about_once() {
    let name = "unknown_access_letters_of_a_device_rule_are_warned_about_once";
    if skipped_on_runc(name, "it does not tell of them") || !directories_come_first(name) {
        return;
    }
    let (runtime, slice) = (Runtime::new("bus-letters"), Slice::new("letters"));
    let bus = FakeBus::start(runtime.work(), &slice.0, Behaviour::Obeys);
    let rule = json!({"allow": true, "type": "c", "major": 1, "minor": 3, "access": "rwx"});
    let bundle = slice.bundle().set("/linux/resources/devices", json!([rule]));
    let create = runtime.on("create", "c1", &bundle).global(&["--systemd-cgroup"]).env(BUS, &bus.address()).wait().ok();
    assert_eq!(create.stderr.matches("linux.resources.devices[0].access").count(), 1, "{create:#?}");
    runtime.call(&["delete", "--force", "c1"]).env(BUS, &bus.address()).wait().ok();
    assert_nothing_left(&runtime, &slice);
}

#[test]
fn delete_without_an_answering_bus_leaves_nothing() {
    let name = "delete_without_an_answering_bus_leaves_nothing";
    if skipped_on_runc(name, OWN_WORDS) || !directories_come_first(name) {
        return;
    }
    let (runtime, slice) = (Runtime::new("bus-end"), Slice::new("end"));
    for gone in [true, false] {
        let bus = FakeBus::start(runtime.work(), &slice.0, Behaviour::Obeys);
        let address = bus.address();
        create(&runtime, &slice, &address).wait().ok();
        bus.becomes(Behaviour::Silent);
        let kept = (!gone).then_some(bus);
        let says = if gone { "no such file or directory" } else { "no answer within" };
        let update = runtime.call(&["update", "--pids-limit", "70", "c1"]).env(BUS, &address);
        update.wait().fails(1, &["update cgroup", "connect to the system bus at", says]);
        let delete = runtime.call(&["delete", "--force", "c1"]).env(BUS, &address);
        let deleted = delete.wait().ok();
        for word in ["level=warning", "connect to the system bus at", says] {
            assert!(deleted.stderr.contains(word), "{deleted:#?}");
        }
        assert_nothing_left(&runtime, &slice);
        drop(kept);
    }
}

#[test]
fn systemd_driver_is_refused_on_a_host_without_systemd() {
    let name = "systemd_driver_is_refused_on_a_host_without_systemd";
    if Path::new("/run/systemd/system").is_dir() {
        eprintln!("{name}: skipped, this host is run by systemd");
        return;
    }
    let (runtime, slice) = (Runtime::new("bus-none"), Slice::new("none"));
    let create = runtime.on("create", "c1", &slice.bundle()).global(&["--systemd-cgroup"]);
    create.wait().fails(1, &["systemd", "host"]);
    assert_nothing_left(&runtime, &slice);
}
