use super::*;

#[test]
fn unknown_and_no_flight_is_an_orphan() {
    assert!(ReapTable::default().is_orphan(7));
}

#[test]
fn known_is_not() {
    let children = Arc::new(Children::default());
    let spawning = children.begin_spawn();
    children.register(&spawning, 7);
    drop(spawning);
    assert!(!children.table().is_orphan(7));
    children.unregister(7);
    assert!(children.table().is_orphan(7));
}

#[test]
fn only_flights_from_before_protect_it() {
    let children = Arc::new(Children::default());
    let before = children.begin_spawn();
    assert!(!children.table().is_orphan(7));
    let after = children.begin_spawn();
    assert!(!children.table().is_orphan(7));
    drop(before);
    // `after` began when 7 was dead already.
    assert!(children.table().is_orphan(7));
    drop(after);
}

#[test]
fn a_newer_suspect_is_judged_by_its_own_flights() {
    let children = Arc::new(Children::default());
    let first = children.begin_spawn();
    assert!(!children.table().is_orphan(7));
    let second = children.begin_spawn();
    drop(first);
    assert!(!children.table().is_orphan(8));
    drop(second);
    assert!(children.table().is_orphan(8));
}

#[test]
fn statuses_are_read_by_pidfd() {
    use rustix::process::{Pid, PidfdFlags, pidfd_open};
    for (script, status) in [("exit 0", 0), ("exit 42", 42), ("kill -9 $$", 137), ("kill -34 $$", 162)] {
        #[expect(
            clippy::disallowed_methods,
            clippy::zombie_processes,
            reason = "a test needs some child, and waits by pidfd"
        )]
        let child = std::process::Command::new("/bin/sh").args(["-c", script]).spawn().unwrap();
        let pid = Pid::from_raw(i32::try_from(child.id()).unwrap()).unwrap();
        let pidfd = pidfd_open(pid, PidfdFlags::empty()).unwrap();
        let exit = crate::testing::runtime().block_on(wait_exit(&pidfd));
        assert_eq!(exit.status, status, "{script}");
        assert!(exit.seconds > 1_600_000_000);
    }
}
