//! Profiles for the seccomp tests: some that resemble the profiles in use, and random ones.

use oci_spec::runtime::LinuxSeccomp;
use serde_json::{Value, json};

/// The compiler's table of calls, as a source of names.
pub const TABLE: &str = include_str!("../../src/leaves/seccomp/syscalls.tbl");

/// Returns the names of the table.
pub fn names() -> impl Iterator<Item = &'static str> {
    TABLE.lines().map(|line| line.split(' ').next().unwrap())
}

/// Calls that the profiles of containerd and docker refuse to a container without extra capabilities: those that need a
/// capability in the initial user namespace, obsolete ones, and those that have served to break out of containers.
const WITHHELD: &[&str] = &[
    "_sysctl",
    "acct",
    "add_key",
    "afs_syscall",
    "bdflush",
    "bpf",
    "break",
    "chroot",
    "clock_settime",
    "clock_settime64",
    "create_module",
    "delete_module",
    "fanotify_init",
    "file_getattr",
    "file_setattr",
    "finit_module",
    "fsconfig",
    "fsmount",
    "fsopen",
    "fspick",
    "ftime",
    "get_kernel_syms",
    "get_mempolicy",
    "getpmsg",
    "gtty",
    "idle",
    "init_module",
    "io_uring_enter",
    "io_uring_register",
    "io_uring_setup",
    "ioperm",
    "iopl",
    "kcmp",
    "kexec_file_load",
    "kexec_load",
    "keyctl",
    "listns",
    "lock",
    "lookup_dcookie",
    "mbind",
    "migrate_pages",
    "mount",
    "mount_setattr",
    "move_mount",
    "move_pages",
    "mpx",
    "nfsservctl",
    "nice",
    "oldfstat",
    "oldlstat",
    "oldolduname",
    "oldstat",
    "olduname",
    "open_by_handle_at",
    "open_tree",
    "open_tree_attr",
    "perf_event_open",
    "pidfd_getfd",
    "pivot_root",
    "process_madvise",
    "prof",
    "profil",
    "putpmsg",
    "query_module",
    "quotactl",
    "quotactl_fd",
    "readdir",
    "reboot",
    "request_key",
    "rseq_slice_yield",
    "security",
    "set_mempolicy",
    "set_mempolicy_home_node",
    "setdomainname",
    "sethostname",
    "setns",
    "settimeofday",
    "sgetmask",
    "signal",
    "sigaction",
    "sigpending",
    "sigsuspend",
    "ssetmask",
    "stime",
    "stty",
    "swapoff",
    "swapon",
    "sysfs",
    "syslog",
    "tuxcall",
    "ulimit",
    "umount",
    "umount2",
    "unshare",
    "uprobe",
    "userfaultfd",
    "uselib",
    "ustat",
    "vhangup",
    "vm86",
    "vm86old",
    "vserver",
    "arm_fadvise64_64",
    "arm_sync_file_range",
    "breakpoint",
    "cacheflush",
    "get_tls",
    "set_tls",
    "usr26",
    "usr32",
    "pciconfig_iobase",
    "pciconfig_read",
    "pciconfig_write",
    "sync_file_range2",
    // The profile allows this one by its arguments.
    "clone",
    "clone3",
    "personality",
    "socket",
];

const NAMESPACES: u64 = 0x7e02_0000;

/// Returns profiles of the kinds that containers run under.
pub fn in_use() -> [(&'static str, Value); 4] {
    [("containerd", containerd()), ("docker", docker()), ("denylist", denylist()), ("arm", arm())]
}

/// Returns a profile with the shape and size of containerd's default for a container without CAP_SYS_ADMIN.
pub fn containerd() -> Value {
    let allowed: Vec<_> = names().filter(|name| !WITHHELD.contains(name)).collect();
    let socket = |value, op| {
        json!({"names": ["socket"], "action": "SCMP_ACT_ALLOW",
        "args": [{"index": 0, "value": value, "op": op}]})
    };
    let mut syscalls = vec![
        json!({"names": allowed, "action": "SCMP_ACT_ALLOW"}),
        socket(libc::AF_ALG, "SCMP_CMP_LT"),
        socket(libc::AF_ALG + 1, "SCMP_CMP_EQ"),
        socket(libc::AF_VSOCK, "SCMP_CMP_GT"),
    ];
    for value in [0u64, 8, 0x20000, 0x20008, 0xffff_ffff] {
        syscalls.push(json!({"names": ["personality"], "action": "SCMP_ACT_ALLOW",
            "args": [{"index": 0, "value": value, "op": "SCMP_CMP_EQ"}]}));
    }
    syscalls.push(json!({"names": ["clone"], "action": "SCMP_ACT_ALLOW",
        "args": [{"index": 0, "value": NAMESPACES, "valueTwo": 0, "op": "SCMP_CMP_MASKED_EQ"}]}));
    syscalls.push(json!({"names": ["clone3"], "action": "SCMP_ACT_ERRNO", "errnoRet": libc::ENOSYS}));
    json!({"defaultAction": "SCMP_ACT_ERRNO",
        "architectures": ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"], "syscalls": syscalls})
}

/// Returns a profile as docker writes it: one exclusion for socket, a default errno, and the calls of a privileged
/// container.
fn docker() -> Value {
    let mut profile = containerd();
    profile["defaultErrnoRet"] = json!(1);
    let syscalls = profile["syscalls"].as_array_mut().unwrap();
    syscalls.retain(|entry| entry["names"][0] != "socket" && entry["names"][0] != "clone");
    syscalls.push(json!({"names": ["socket"], "action": "SCMP_ACT_ALLOW",
        "args": [{"index": 0, "value": libc::AF_VSOCK, "op": "SCMP_CMP_NE"}]}));
    syscalls.push(json!({"names": ["bpf", "clone", "mount", "setns", "unshare", "umount2", "no_such_call"],
        "action": "SCMP_ACT_ALLOW"}));
    profile
}

/// Returns a denylist: it refuses a few calls and allows all others, newer ones too.
fn denylist() -> Value {
    json!({"defaultAction": "SCMP_ACT_ALLOW", "architectures": ["SCMP_ARCH_X86"], "flags": [],
    "syscalls": [
        {"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 100},
        {"names": ["keyctl", "add_key", "request_key"], "action": "SCMP_ACT_KILL_PROCESS"},
        {"names": ["ioctl"], "action": "SCMP_ACT_ERRNO",
         "args": [{"index": 1, "value": 0x5412, "op": "SCMP_CMP_EQ"}]},
        {"names": ["read", "semop"], "action": "SCMP_ACT_LOG",
         "args": [{"index": 0, "value": 0x1_0000_0002u64, "op": "SCMP_CMP_GE"},
                  {"index": 2, "value": 4096, "op": "SCMP_CMP_LE"}]},
    ]})
}

/// Returns a profile that lists Arm ABIs beside the native one.
fn arm() -> Value {
    let mut profile = containerd();
    profile["architectures"] = json!(["SCMP_ARCH_ARM", "SCMP_ARCH_AARCH64"]);
    let syscalls = profile["syscalls"].as_array_mut().unwrap();
    syscalls.push(json!({"names": ["breakpoint", "cacheflush", "set_tls", "arm_fadvise64_64"],
        "action": "SCMP_ACT_ALLOW"}));
    profile
}

/// Parses a profile from its JSON in config.json.
pub fn parse(profile: &Value) -> LinuxSeccomp {
    serde_json::from_value(profile.clone()).unwrap()
}

/// A xorshift64* generator, which gives the same profiles in every run.
pub struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    pub fn below(&mut self, n: usize) -> usize {
        usize::try_from(self.next() % u64::try_from(n).unwrap()).unwrap()
    }

    pub fn of<T: Clone>(&mut self, list: &[T]) -> T {
        list[self.below(list.len())].clone()
    }
}

const OPERATORS: [&str; 7] =
    ["SCMP_CMP_NE", "SCMP_CMP_LT", "SCMP_CMP_LE", "SCMP_CMP_EQ", "SCMP_CMP_GE", "SCMP_CMP_GT", "SCMP_CMP_MASKED_EQ"];

/// Values at the edges of 32-bit halves.
pub const VALUES: [u64; 12] = [
    0,
    1,
    2,
    40,
    0x7fff_ffff,
    0x8000_0000,
    0xffff_fffe,
    0xffff_ffff,
    0x1_0000_0000,
    0x1_0000_0028,
    0x8000_0000_0000_0000,
    u64::MAX,
];

/// The actions of profiles.
pub const ACTIONS: [&str; 8] = [
    "SCMP_ACT_ALLOW",
    "SCMP_ACT_ERRNO",
    "SCMP_ACT_KILL",
    "SCMP_ACT_KILL_PROCESS",
    "SCMP_ACT_TRAP",
    "SCMP_ACT_TRACE",
    "SCMP_ACT_LOG",
    "SCMP_ACT_KILL_THREAD",
];

/// The overlap of the rules in a random profile.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Shape {
    /// No call occurs twice, and no rule names an argument twice.
    Apart,
    /// Calls occur often, and arguments are compared by EQ only.
    Equalities,
    /// No restriction.
    Any,
}

/// Returns a random profile over the names of `pool`. All rules have one action unless they are `mixed`.
pub fn random(random: &mut Random, pool: &[&str], shape: Shape, mixed: bool) -> Value {
    let default = random.of(&ACTIONS);
    let action = random.of(&ACTIONS);
    let errno = random.below(200);
    // Only a few names, so that rules overlap.
    let few: Vec<_> = (0..20).map(|_| random.of(pool)).collect();
    let mut left = pool.to_vec();
    let syscalls: Vec<_> = (0..1 + random.below(30))
        .map(|_| {
            let names: Vec<_> =
                (0..1 + random.below(4))
                    .map(|_| {
                        if shape == Shape::Apart { left.swap_remove(random.below(left.len())) } else { random.of(&few) }
                    })
                    .collect();
            let mut indices: Vec<_> = (0..6).collect();
            let args: Vec<_> = (0..[0, 0, 1, 1, 2, 3][random.below(6)])
                .map(|_| {
                    let index = match shape {
                        Shape::Apart => indices.swap_remove(random.below(indices.len())),
                        Shape::Equalities | Shape::Any => random.below(4),
                    };
                    let op = match shape {
                        Shape::Equalities => "SCMP_CMP_EQ",
                        Shape::Apart | Shape::Any => random.of(&OPERATORS),
                    };
                    json!({"index": index, "op": op, "value": random.of(&VALUES), "valueTwo": random.of(&VALUES)})
                })
                .collect();
            let action = if mixed { random.of(&ACTIONS) } else { action };
            json!({"names": names, "action": action, "errnoRet": errno, "args": args})
        })
        .collect();
    let all = ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32", "SCMP_ARCH_AARCH64", "SCMP_ARCH_ARM"];
    let architectures: Vec<_> = all.into_iter().filter(|_| random.below(2) == 0).collect();
    json!({"defaultAction": default, "defaultErrnoRet": random.below(200), "architectures": architectures,
        "syscalls": syscalls})
}
