use std::{cell::Cell, fs::File, os::fd::AsFd};

use berth_init::plan::{
    Barrier, Capabilities, Container, Cover, Device, Hooks, Label, Mount, Namespaces, Process, Rlimit, Source, Stdio,
    Sysctl,
};

use super::*;

/// Each step whose failure must name an operand, with the operand. Every operand has the index 1 in its list.
const OPERANDS: [(Step, &str); 34] = [
    (Step::Cgroup, "/dev/null"),
    (Step::OomScoreAdj, "write 500 to"),
    (Step::JoinNamespace, "net namespace: /run/netns/a"),
    (Step::Unshare, "ipc, cgroup namespaces"),
    (Step::Keyring, "\"_ses.c1\""),
    (Step::KeyringLabel, "\"key_t\""),
    (Step::HostPropagation, "slave"),
    (Step::AttachRootfs, "/bundle/rootfs"),
    (Step::RootPropagation, "shared"),
    (Step::EnterRoot, "pivot_root"),
    (Step::NotPlainDirectory, "\"tmpfs\" to rootfs at \"/b\""),
    (Step::MountSource, "\"tmpfs\" to rootfs at \"/b\""),
    (Step::MountTarget, "\"tmpfs\" to rootfs at \"/b\""),
    (Step::MountCreate, "\"tmpfs\" to rootfs at \"/b\""),
    (Step::MountLabel, "\"tmpfs\" to rootfs at \"/b\""),
    (Step::MountAttach, "\"tmpfs\" to rootfs at \"/b\""),
    (Step::MountPropagation, "\"tmpfs\" to rootfs at \"/b\""),
    (Step::Device, "/dev/b"),
    (Step::MakeCwd, "/cwd"),
    (Step::ReadonlyPath, "\"/readonly/b\""),
    (Step::MaskedPath, "\"/masked/b\""),
    (Step::Hostname, "\"host\""),
    (Step::Domainname, "\"domain\""),
    (Step::Sysctl, "/proc/sys/b"),
    (Step::Stdio, "stdout (fd 1)"),
    (Step::Rlimit, "rlimit type 7"),
    (Step::Label, "\"label_b\""),
    (Step::LabelReadBack, "/proc/attr/b"),
    (Step::Groups, "[5, 6]"),
    (Step::User, "uid 1000 and gid 1001"),
    (Step::Cwd, "\"/cwd\""),
    (Step::NotOnPath, "\"/bin/payload\""),
    (Step::Executable, "\"/bin/payload\""),
    (Step::Exec, "/bin/payload"),
];

/// The steps whose operand is in the failure itself.
const NUMBERED: [(Step, &str); 4] = [
    (Step::NotRestricted, "supplementary groups"),
    (Step::HookStart, "hook #1"),
    (Step::HookStatus, "hook #1"),
    (Step::HookTimeout, "hook #1"),
];

/// Calls `check` with a plan that has an operand for each step.
fn with_plan(check: impl FnOnce(&Plan<'_>)) {
    let null = File::open("/dev/null").unwrap();
    let fd = null.as_fd();
    let join = |flags, path| Join { fd, flags, path };
    let joins = [join(kind::IPC, None), join(kind::NETWORK, Some(c"/run/netns/a"))];
    let mount = |target| Mount {
        target,
        source: Source::Link { to: c"to" },
        plain_directory: false,
        onto_link: false,
        propagation: &[],
        reclone: false,
        readonly_at_end: false,
        kept: Cell::default(),
        attached: Cell::default(),
    };
    let mounts = [mount(c"/a"), mount(c"/b")];
    let device = |path| Device { path, mode: 0, major: 0, minor: 0, uid: 0, gid: 0 };
    let devices = [device(c"/dev/a"), device(c"/dev/b")];
    let sysctls = [c"/proc/sys/a", c"/proc/sys/b"].map(|path| Sysctl { path, value: b"" });
    let label = |attribute, name| Label { module: Module::Selinux, attribute, command: name, name };
    let labels = [label(c"attr/a", &b"label_a"[..]), label(c"attr/b", b"label_b")];
    let rlimits = [3, 7].map(|resource| Rlimit { resource, soft: 0, hard: 0 });
    let cover = |path| Cover { path, within: None };
    let rootfs = Rootfs {
        tree: fd,
        attach_at: Some(c"/bundle/rootfs"),
        host_propagation: libc::MS_SLAVE,
        enter: Enter::Pivot,
        mounts: &mounts,
        devices: &devices,
        dev_links: false,
        console: false,
        cwd: c"/cwd",
        readonly_paths: &[cover(c"/readonly/a"), cover(c"/readonly/b")],
        masked_paths: &[cover(c"/masked/a"), cover(c"/masked/b")],
        mask_options: &[],
        readonly: false,
        propagation: libc::MS_SHARED,
    };
    let container = Container {
        new_network: false,
        hostname: Some(b"host"),
        domainname: Some(b"domain"),
        rootfs,
        sysctls: &sysctls,
        runtime_hooks: false,
        create_container: Hooks::NONE,
        start_container: Hooks::NONE,
    };
    let process = Process {
        args: &[],
        env: &[],
        find_home: false,
        executables: &[],
        from_path: false,
        cwd: c"/cwd",
        uid: 1000,
        gid: 1001,
        groups: &[5, 6],
        keep_groups: false,
        groups_buffer: &[],
        umask: None,
        capabilities: Capabilities::default(),
        rlimits: &rlimits,
        ignored_signals: 0,
        no_new_privs: false,
        labels: &labels,
        seccomp: None,
        scheduling: None,
        chown_stdio: false,
    };
    check(&Plan {
        channel: -1,
        keep_fds: &[],
        preserve_fds: 0,
        cgroup_tasks: &[fd, fd],
        namespaces: Namespaces {
            joins: &joins,
            unshare: kind::IPC,
            second_clone: false,
            unshare_cgroup: true,
            become_root: false,
            enter_pid: false,
        },
        all_cpus: false,
        oom_score_adj: Some(b"500"),
        keyring: Some(c"_ses.c1"),
        keyring_label: Some(b"key_t"),
        container: Some(container),
        stdio: Stdio::Inherit,
        process,
        barrier: Some(Barrier::Channel),
        image: None,
        namespace_files: &[],
    });
}

fn names(mounts: &[String]) -> Names<'_> {
    Names { mounts, program: "/bin/payload", cpus_bound: false }
}

#[test]
fn every_failure_names_its_operand() {
    let mounts = ["\"proc\" to rootfs at \"/a\"", "\"tmpfs\" to rootfs at \"/b\""].map(str::to_owned);
    with_plan(|plan| {
        for &step in Step::ALL {
            let failure = Failure { step, index: 1, errno: libc::ENOSPC };
            let said = to_error(failure, Some(plan), &names(&mounts)).to_string();
            let operand = OPERANDS.iter().chain(&NUMBERED).find(|(of, _)| *of == step).map(|(_, operand)| *operand);
            let operand = operand.or_else(|| fixed(step));
            assert!(operand.is_some_and(|operand| said.contains(operand)), "{step:?}: {said}");
        }
    });
}

#[test]
fn no_message_has_the_debug_name_of_a_step() {
    with_plan(|plan| {
        for &step in Step::ALL {
            let name = format!("{step:?}");
            // A name of one word may be a word of the message as well.
            let words = name.chars().filter(char::is_ascii_uppercase).count();
            for (plan, errno) in [(Some(plan), 0), (Some(plan), libc::EPERM), (None, 0), (None, libc::EPERM)] {
                let said = to_error(Failure { step, index: 1, errno }, plan, &names(&[])).to_string();
                assert!(said.contains(' ') && !said.contains("::"), "{step:?}: {said}");
                let shown = said.contains(&name) || said.contains(&name.to_lowercase());
                assert!(words == 1 || !shown, "{step:?}: {said}");
            }
        }
    });
}

#[test]
fn the_words_of_runc_stay() {
    for (failure, said) in [
        ((Step::NotOnPath, 0, 0), "exec: \"/bin/payload\": executable file not found in $PATH"),
        (
            (Step::Executable, payload::NOT_FOUND, libc::ENOENT),
            "exec: \"/bin/payload\": stat /bin/payload: no such file or directory",
        ),
        ((Step::Executable, payload::NOT_EXECUTABLE, libc::EACCES), "exec: \"/bin/payload\": permission denied"),
        ((Step::Exec, 0, libc::ENOENT), "exec /bin/payload: no such file or directory"),
        ((Step::Capabilities, 0, libc::EPERM), "process.capabilities: unable to apply caps: operation not permitted"),
    ] {
        let (step, index, errno) = failure;
        assert_eq!(to_error(Failure { step, index, errno }, None, &names(&[])).to_string(), said);
    }
}
