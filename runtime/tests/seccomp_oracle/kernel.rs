//! The kernel as the reference: a child makes real calls under a filter, and the results must be those of the filter.
#![allow(unsafe_code, reason = "fork, and system calls by number")]

use berth_runtime::seccomp::{self, Filter};
use serde_json::json;

use crate::profiles::{Random, VALUES, parse};

const X86_64: u32 = 0xc000_003e;
const I386: u32 = 0x4000_0003;
const X32_BIT: i64 = 0x4000_0000;

/// No harmless call fails with these by itself.
const DENIED: u32 = 4001;
const DEFAULT: u32 = 4002;

/// The instruction that makes a call.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Door {
    /// `syscall`: x86_64, and x32 if the bit is set.
    Syscall,
    /// `int 0x80`: i386.
    Int80,
}

#[derive(Clone, Copy, Debug)]
struct Attempt {
    door: Door,
    nr: i64,
    args: [u64; 6],
}

/// The result of a call, as far as a filter decides it.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Outcome {
    /// The filter allowed the call, so the kernel answered.
    Made,
    Errno(u32),
    Killed,
}

impl Attempt {
    fn predicted(self, filter: &Filter) -> Outcome {
        let (arch, args) = match self.door {
            Door::Syscall => (X86_64, self.args),
            Door::Int80 => (I386, self.args.map(|a| a & 0xffff_ffff)),
        };
        let raw = filter.verdict(arch, i32::try_from(self.nr).unwrap(), args);
        match raw & 0xffff_0000 {
            0x7fff_0000 | 0x7ffc_0000 => Outcome::Made,
            // Without a tracer the kernel does not make the call (seccomp(2)).
            0x7ff0_0000 => Outcome::Errno(libc::ENOSYS.unsigned_abs()),
            0x0005_0000 => Outcome::Errno(raw & 0xffff),
            _ => Outcome::Killed,
        }
    }

    /// Makes the call in a child under the filter.
    fn made(self, filter: &Filter) -> Outcome {
        let program = libc::sock_fprog {
            len: filter.instructions().len().try_into().unwrap(),
            filter: filter.instructions().as_ptr().cast_mut(),
        };
        let mut pipe = [0; 2];
        // SAFETY: pipe2 fills two descriptors. The child of fork makes system calls only, and never returns.
        let pid = unsafe {
            assert_eq!(libc::pipe2(pipe.as_mut_ptr(), libc::O_CLOEXEC), 0);
            libc::fork()
        };
        assert!(pid >= 0);
        if pid == 0 {
            // SAFETY: as above. The program outlives the calls, and the kernel copies it.
            unsafe {
                let flags = u64::from(filter.flags());
                if libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0
                    || libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, flags, &raw const program) != 0
                {
                    libc::_exit(1);
                }
                let answer = self.call();
                libc::write(pipe[1], (&raw const answer).cast(), 8);
                libc::_exit(0);
            }
        }
        let (mut answer, mut status) = (0i64, 0);
        // SAFETY: this process owns the descriptors and the child, and the buffer has eight bytes.
        let got = unsafe {
            libc::close(pipe[1]);
            let got = libc::read(pipe[0], (&raw mut answer).cast(), 8);
            libc::close(pipe[0]);
            assert_eq!(libc::waitpid(pid, &raw mut status, 0), pid);
            got
        };
        if libc::WIFSIGNALED(status) && libc::WTERMSIG(status) == libc::SIGSYS {
            return Outcome::Killed;
        }
        assert!(libc::WIFEXITED(status) && libc::WEXITSTATUS(status) == 0 && got == 8, "{self:?}: status {status:#x}");
        match u32::try_from(-answer) {
            Ok(errno) if errno == DENIED || errno == DEFAULT || errno == libc::ENOSYS.unsigned_abs() => {
                Outcome::Errno(errno)
            }
            _ => Outcome::Made,
        }
    }

    /// Returns the kernel's raw answer.
    ///
    /// # Safety
    /// The call must be harmless with any arguments.
    unsafe fn call(self) -> i64 {
        let [a, b, c, d, e, f] = self.args;
        let mut answer = self.nr;
        // SAFETY: these are the kernel's conventions (syscall(2)). The compiler reserves rbx, so it is restored. i386
        // calls clobber r8 to r11.
        unsafe {
            match self.door {
                Door::Syscall => std::arch::asm!("syscall", inlateout("rax") answer, in("rdi") a, in("rsi") b,
                    in("rdx") c, in("r10") d, in("r8") e, in("r9") f, lateout("rcx") _, lateout("r11") _),
                Door::Int80 => std::arch::asm!("xchg rbx, {a}", "int 0x80", "xchg rbx, {a}", a = inout(reg) a => _,
                    inlateout("rax") answer, in("rcx") b, in("rdx") c, in("rsi") d, in("rdi") e,
                    lateout("r8") _, lateout("r9") _, lateout("r10") _, lateout("r11") _),
            }
        }
        match self.door {
            Door::Syscall => answer,
            // The result has 32 bits; the upper half of the register is undefined.
            Door::Int80 => i64::from(i32::from_ne_bytes(answer.to_ne_bytes()[..4].try_into().unwrap())),
        }
    }
}

/// Calls that have no effect with any arguments: getpid, getppid, gettid, getuid, getgid, geteuid, sched_yield.
const HARMLESS: [(i64, i64); 7] = [(39, 20), (110, 64), (186, 224), (102, 199), (104, 200), (107, 201), (24, 158)];
const NAMES: [&str; 7] = ["getpid", "getppid", "gettid", "getuid", "getgid", "geteuid", "sched_yield"];

/// Compiles a profile that allows the child's report, and answers the harmless calls as `rules` say.
fn filter(default: &str, rules: Vec<serde_json::Value>) -> std::sync::Arc<Filter> {
    let mut syscalls = vec![json!({"names": ["write", "exit_group"], "action": "SCMP_ACT_ALLOW"})];
    syscalls.extend(rules);
    // On i386 getuid is the 16-bit call. The numbers above are those of its 32-bit siblings.
    for entry in &mut syscalls {
        let names = entry["names"].as_array_mut().unwrap();
        for name in ["getuid", "getgid", "geteuid"] {
            if names.iter().any(|n| n == name) {
                names.push(json!(format!("{name}32")));
            }
        }
    }
    let profile = json!({"defaultAction": default, "defaultErrnoRet": DEFAULT, "syscalls": syscalls,
        "architectures": ["SCMP_ARCH_X86", "SCMP_ARCH_X32"]});
    seccomp::compile(&parse(&profile)).unwrap()
}

#[test]
fn kernel_applies_each_action_of_a_filter() {
    let actions = [
        "SCMP_ACT_ALLOW",
        "SCMP_ACT_ERRNO",
        "SCMP_ACT_KILL",
        "SCMP_ACT_KILL_PROCESS",
        "SCMP_ACT_TRAP",
        "SCMP_ACT_TRACE",
        "SCMP_ACT_LOG",
    ];
    let rule = |(name, action)| json!({"names": [name], "action": action, "errnoRet": DENIED});
    let filter = filter("SCMP_ACT_ERRNO", NAMES.iter().zip(actions).map(rule).collect());
    let mut seen = Vec::new();
    for (native, i386) in HARMLESS {
        for (door, nr) in [(Door::Syscall, native), (Door::Syscall, native | X32_BIT), (Door::Int80, i386)] {
            let attempt = Attempt { door, nr, args: [0; 6] };
            let (want, got) = (attempt.predicted(&filter), attempt.made(&filter));
            // A kernel without x32 answers ENOSYS after the filter has allowed the call.
            let no_x32 = want == Outcome::Made && got == Outcome::Errno(libc::ENOSYS.unsigned_abs());
            assert!(want == got || (nr & X32_BIT != 0 && no_x32), "{attempt:?}: predicted {want:?}, got {got:?}");
            seen.push(want);
        }
    }
    for outcome in [Outcome::Made, Outcome::Errno(DENIED), Outcome::Killed] {
        assert!(seen.iter().filter(|seen| **seen == outcome).count() >= 3, "{outcome:?}: {seen:?}");
    }
}

#[test]
fn kernel_answers_newer_and_unlisted_calls_as_the_filter() {
    let filter = filter("SCMP_ACT_ERRNO", vec![json!({"names": ["close_range"], "action": "SCMP_ACT_ALLOW"})]);
    let nosys = Outcome::Errno(libc::ENOSYS.unsigned_abs());
    for (door, nr, want) in [
        (Door::Syscall, 435, Outcome::Errno(DEFAULT)),
        (Door::Syscall, 436, Outcome::Made),
        (Door::Syscall, 437, nosys),
        (Door::Syscall, 1000, nosys),
        (Door::Syscall, -1, nosys),
        (Door::Syscall, X32_BIT | 435, Outcome::Errno(DEFAULT)),
        (Door::Syscall, X32_BIT | 437, nosys),
        (Door::Int80, 435, Outcome::Errno(DEFAULT)),
        (Door::Int80, 437, nosys),
    ] {
        // close_range(2) with an empty range closes nothing.
        let attempt = Attempt { door, nr, args: [2, 1, 0, 0, 0, 0] };
        assert_eq!(attempt.predicted(&filter), want, "{attempt:?}");
        assert_eq!(attempt.made(&filter), want, "{attempt:?}");
    }
}

#[test]
fn kernel_compares_arguments_as_the_filter() {
    let mut random = Random(7);
    let operators = ["NE", "LT", "LE", "EQ", "GE", "GT", "MASKED_EQ"];
    let (mut allowed, mut denied) = (0, 0);
    for (n, op) in operators.iter().enumerate() {
        let value = random.of(&VALUES);
        let rules = vec![json!({"names": [NAMES[n]], "action": "SCMP_ACT_ALLOW", "args": [
            {"index": n % 6, "value": value, "valueTwo": random.of(&VALUES), "op": format!("SCMP_CMP_{op}")}]})];
        let filter = filter("SCMP_ACT_ERRNO", rules);
        let mut values = vec![value, value.wrapping_sub(1), value.wrapping_add(1), value ^ (1 << 32), value << 32];
        values.extend(VALUES);
        for v in values {
            for (door, nr) in [(Door::Syscall, HARMLESS[n].0), (Door::Int80, HARMLESS[n].1)] {
                let mut args = [0; 6];
                args[n % 6] = v;
                // The sixth argument of int 0x80 would be the frame pointer.
                if door == Door::Int80 && n % 6 == 5 {
                    continue;
                }
                let attempt = Attempt { door, nr, args };
                let want = attempt.predicted(&filter);
                assert_eq!(attempt.made(&filter), want, "{op} {value:#x} {attempt:?}");
                *(if want == Outcome::Made { &mut allowed } else { &mut denied }) += 1;
            }
        }
    }
    assert!(allowed > 30 && denied > 30, "{allowed} {denied}");
}

#[test]
fn kernel_applies_a_stored_filter_like_the_original() {
    let made = filter("SCMP_ACT_ERRNO", vec![json!({"names": ["getpid"], "action": "SCMP_ACT_ALLOW"})]);
    let stored = Filter::from_bytes(&made.to_bytes()).unwrap();
    for (native, _) in HARMLESS {
        let attempt = Attempt { door: Door::Syscall, nr: native, args: [0; 6] };
        assert_eq!(attempt.made(&stored), attempt.predicted(&made), "{attempt:?}");
    }
}
