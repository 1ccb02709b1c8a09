//! Test machines: a Debian with systemd, cgroup v2 and AppArmor or SELinux under qemu, in which the tests run as they do
//! natively.
//!
//! `integration/vm/image` makes the disk. [`machine`] boots it once, saves the running machine, and resumes from that each
//! time; [`guest`] speaks over a virtio port with [`agent`], which runs programs inside; [`lane`] keeps a machine while a
//! command runs on this side, and runs in it what [`runner`] hands over. cargo calls the runner in place of each test
//! program, so that a run in the machine looks like any other.
//!
//! ```text
//! make test-vm: berth-vm run NAME -- cargo test …         make vm-shell: berth-vm shell NAME
//!                 │ lane  <──unix socket── berth-vm guest <test program>      (cargo's runner)
//!                 │ guest <──virtio port─> berth-vm agent ── <test program>   (in the machine)
//!                 └ machine ─QMP─> qemu
//! ```

pub mod agent;
pub mod guest;
pub mod image;
pub mod lane;
pub mod machine;
pub mod qmp;
pub mod runner;
pub mod terminal;
pub mod wire;

/// A fault of a machine, in a sentence. A failed test is not a fault.
pub type Fault = String;

/// A result of dealing with a machine.
pub type Result<T> = std::result::Result<T, Fault>;

/// Makes a [`Fault`] of an attempt and its error.
pub(crate) fn fault(what: &str) -> impl Fn(std::io::Error) -> Fault + '_ {
    move |error| format!("{what}: {error}")
}
