//! The systemd driver for an unprivileged user, on a host that systemd runs: the user's systemd makes the scope below
//! user@UID.service.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a test: what does not hold ends it")]

use berth_integration::{
    bundle::Bundle,
    cgroup, command,
    runtime::{Call, Runtime, is_runc},
    systemd::{self, systemctl},
    wait::{LONG, until_true},
};
use serde_json::json;
use std::{
    path::{Path, PathBuf},
    process::Command,
    sync::{Mutex, PoisonError},
};

/// The uid of a user in every host's passwd with no processes. Without an entry there is no user@UID.service.
const NOBODY: u32 = 65_534;

/// The user's systemd with its own bus. Dropping it ends both.
struct User {
    runtime: Runtime,
    directory: PathBuf,
}

impl User {
    /// Returns `None`, and prints why, without systemd or cgroup v2: a user has no cgroups there.
    fn new(test: &str) -> Option<Self> {
        if !systemd::here(test) {
            return None;
        }
        if !cgroup::is_v2() {
            eprintln!("{test}: skipped, a user's systemd has no cgroups on v1");
            return None;
        }
        let user = Self {
            runtime: Runtime::of_user(test, NOBODY, &NOBODY.to_string()),
            directory: format!("/run/user/{NOBODY}").into(),
        };
        systemctl(&["start", &service()]);
        let bus = user.directory.join("bus");
        until_true("the user's bus to listen", LONG, || bus.exists());
        Some(user)
    }

    fn call<'a>(&'a self, call: Call<'a>) -> Call<'a> {
        call.global(&["--systemd-cgroup"]).env("XDG_RUNTIME_DIR", self.directory.to_str().unwrap())
    }

    /// Returns a property of a unit as `systemctl --user show` prints it.
    fn show(&self, unit: &str, property: &str) -> String {
        let words = self.runtime.as_user();
        let mut systemctl = Command::new(&words[0]);
        systemctl.args(&words[1..]).args(["systemctl", "--user", "show", "--value", "--property", property, unit]);
        systemctl.env("XDG_RUNTIME_DIR", &self.directory).env_remove("DBUS_SESSION_BUS_ADDRESS");
        command::run(&mut systemctl, LONG).ok()
    }
}

impl Drop for User {
    fn drop(&mut self) {
        for id in self.runtime.ids() {
            self.call(self.runtime.call(&["delete", "--force", &id])).wait();
        }
        systemctl(&["stop", &service()]);
    }
}

fn service() -> String {
    format!("user@{NOBODY}.service")
}

/// The tests take turns, since a user has one systemd.
static TURN: Mutex<()> = Mutex::new(());

/// Returns the path below the cgroup of the user's systemd.
fn path(scope: &str) -> String {
    format!("/user.slice/user-{NOBODY}.slice/{}/{scope}", service())
}

#[test]
fn user_manager_makes_a_scope_with_its_limits() {
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let Some(user) = User::new("user_manager_makes_a_scope_with_its_limits") else { return };
    let runtime = &user.runtime;
    let bundle = Bundle::probe(&["signal"])
        .rootless(NOBODY)
        .set("/linux/cgroupsPath", json!("berth_user.slice:berth:c1"))
        .set("/linux/resources", json!({"pids": {"limit": 20}, "memory": {"limit": 64 << 20}}));
    user.call(runtime.on("create", "c1", &bundle)).wait().ok();
    let own = path("berth_user.slice/berth-c1.scope");
    let pid = runtime.pid("c1").cast_signed();
    assert_eq!(cgroup::processes(&own), [pid]);
    assert_eq!(cgroup::value(&own, "", "pids.max"), "20");
    assert_eq!(cgroup::value(&own, "", "memory.max"), (64 << 20).to_string());
    assert_eq!(user.show("berth-c1.scope", "TasksMax"), "20");
    assert_eq!(user.show("berth-c1.scope", "Slice"), "berth_user.slice");
    user.call(runtime.call(&["start", "c1"])).wait().ok();

    user.call(runtime.call(&["exec", "--detach", "c1", "/probe", "signal"])).wait().ok();
    until_true("the exec to be in the scope", LONG, || cgroup::processes(&own).len() == 2);
    user.call(runtime.call(&["update", "--pids-limit", "30", "c1"])).wait().ok();
    assert_eq!(cgroup::value(&own, "", "pids.max"), "30");
    assert_eq!(user.show("berth-c1.scope", "TasksMax"), "30");
    user.call(runtime.call(&["pause", "c1"])).wait().ok();
    assert!(cgroup::frozen(&own));
    user.call(runtime.call(&["resume", "c1"])).wait().ok();

    user.call(runtime.call(&["delete", "--force", "c1"])).wait().ok();
    assert!(cgroup::directories(&own).is_empty());
    assert_eq!(user.show("berth-c1.scope", "LoadState"), "not-found");
}

#[test]
fn user_scope_without_a_path_has_a_default_name() {
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let Some(user) = User::new("user_scope_without_a_path_has_a_default_name") else { return };
    let runtime = &user.runtime;
    // The unit name must not be another test's.
    let id = format!("user{}", std::process::id());
    user.call(runtime.on("run", &id, &Bundle::probe(&["signal"]).rootless(NOBODY)).with(&["--detach"])).wait().ok();
    let own = path(&format!("user.slice/runc-{id}.scope"));
    assert_eq!(cgroup::processes(&own), [runtime.pid(&id).cast_signed()]);
    user.call(runtime.call(&["kill", &id, "KILL"])).wait().ok();
    runtime.until(&id, "stopped");
    user.call(runtime.call(&["delete", &id])).wait().ok();
    assert!(cgroup::directories(&own).is_empty());
}

#[test]
fn missing_user_bus_is_refused_by_name() {
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let Some(user) = User::new("missing_user_bus_is_refused_by_name") else { return };
    let runtime = &user.runtime;
    let bundle = Bundle::probe(&["signal"]).rootless(NOBODY);
    let create = || runtime.on("create", "c1", &bundle).global(&["--systemd-cgroup"]);
    let nowhere = runtime.work().to_str().unwrap();
    create().env("XDG_RUNTIME_DIR", nowhere).wait().fails(1, &["DBUS_SESSION_BUS_ADDRESS"]);
    let address = format!("unix:path={nowhere}/nobody");
    let says = if is_runc() { "no such file or directory" } else { "connect to the user's bus at" };
    create().env("DBUS_SESSION_BUS_ADDRESS", &address).wait().fails(1, &[says]);
    assert!(!Path::new(&runtime.root().join("c1")).exists());
}
