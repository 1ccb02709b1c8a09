//! The OCI profile, checked and put into the compiler's terms: raw actions, rules of comparisons, flags.
//!
//! Whatever is wrong in the profile is found here and named by its field; [`super::rules`] can then not fail on form.

use oci_spec::runtime::{
    LinuxSeccomp, LinuxSeccompAction as Action, LinuxSeccompArg, LinuxSeccompFilterFlag as Flag, LinuxSeccompOperator,
};

use super::arch::Abi;
use crate::{Error, Result};

/// `SECCOMP_RET_ERRNO`; the errno is in the low 16 bits.
pub const RET_ERRNO: u32 = libc::SECCOMP_RET_ERRNO;

/// A profile without errors.
pub struct Profile<'a> {
    /// Raw action for a call that no rule matches.
    pub default: u32,
    /// Whether calls newer than any the profile names are answered ENOSYS.
    pub stub: bool,
    /// Flags for `SECCOMP_SET_MODE_FILTER`.
    pub flags: u32,
    /// Conventions the filter covers, the machine's own first.
    pub abis: Vec<Abi>,
    /// The entries of `syscalls`, in the profile's order.
    pub blocks: Vec<Block<'a>>,
}

/// One entry of `syscalls`.
pub struct Block<'a> {
    /// Names it applies to.
    pub names: &'a [String],
    /// Raw action.
    pub action: u32,
    /// Alternatives of comparisons that must all hold; one empty alternative when there are no arguments to compare.
    pub rules: Vec<Vec<Compare>>,
}

/// A comparison of one argument with a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Compare {
    /// Argument, 0 to 5.
    pub arg: u32,
    /// How the masked argument relates to `value`.
    pub test: Test,
    /// Whether the test must fail instead: NE, LT and LE are the negations of EQ, GE and GT.
    pub negate: bool,
    /// Bits that count; all of them except for MASKED_EQ.
    pub mask: u64,
    /// What is compared with, masked.
    pub value: u64,
}

impl Compare {
    /// Mask and value of the high or the low 32 bits: what BPF can look at.
    pub fn half(&self, high: bool) -> (u32, u32) {
        let half = |v: u64| {
            let [a, b, c, d, e, f, g, h] = v.to_le_bytes();
            u32::from_le_bytes(if high { [e, f, g, h] } else { [a, b, c, d] })
        };
        (half(self.mask), half(self.value))
    }
}

/// The tests that BPF has, unsigned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Test {
    /// Equal.
    Eq,
    /// Greater.
    Gt,
    /// Greater or equal.
    Ge,
}

/// Checks a profile for a machine whose own convention is `native`.
///
/// # Errors
/// Names the field (`linux.seccomp.…`) that is wrong or asks for what is not built.
pub fn check(profile: &LinuxSeccomp, native: Abi) -> Result<Profile<'_>> {
    let default =
        action(profile.default_action(), profile.default_errno_ret(), "default", || "linux.seccomp.".to_owned())?;
    let mut blocks = Vec::new();
    for (n, entry) in profile.syscalls().iter().flatten().enumerate() {
        let field = || format!("linux.seccomp.syscalls[{n}].");
        if entry.action() == Action::ScmpActNotify && entry.names().iter().any(|name| name == "write") {
            let why = "SCMP_ACT_NOTIFY cannot be used for the write syscall: by it the listener is told of";
            return Err(Error::invalid(format!("{}action: {why}", field())));
        }
        let raw = action(entry.action(), entry.errno_ret(), "", field)?;
        if let Some(k) = entry.names().iter().position(String::is_empty) {
            return Err(Error::invalid(format!("{}names[{k}]: empty string is not a valid syscall", field())));
        }
        let args = entry.args().as_deref().unwrap_or_default();
        let compares = args
            .iter()
            .enumerate()
            .map(|(k, arg)| compare(arg).ok_or_else(|| bad_index(&field(), k, arg)))
            .collect::<Result<Vec<_>>>()?;
        blocks.push(Block { names: entry.names(), action: raw, rules: rules(compares) });
    }
    Ok(Profile {
        default,
        stub: !matches!(profile.default_action(), Action::ScmpActAllow | Action::ScmpActLog | Action::ScmpActTrace),
        flags: flags(profile.flags().as_deref(), blocks.iter().any(|b| b.action == libc::SECCOMP_RET_USER_NOTIF)),
        abis: abis(profile, native),
        blocks,
    })
}

/// The raw action, as runc fills it in: EPERM where a profile gives no errno, and nothing for actions that take none.
fn action(action: Action, errno: Option<u32>, prefix: &str, field: impl Fn() -> String) -> Result<u32> {
    let name = |plain: &str, prefixed: &str| format!("{}{}", field(), if prefix.is_empty() { plain } else { prefixed });
    let data = || match errno.unwrap_or(libc::EPERM.unsigned_abs()) {
        data @ 0..=0xffff => Ok(data),
        data => {
            let name = name("errnoRet", "defaultErrnoRet");
            Err(Error::invalid(format!("{name}: {data} does not fit the 16 bits of a seccomp action")))
        }
    };
    Ok(match action {
        Action::ScmpActKill | Action::ScmpActKillThread => libc::SECCOMP_RET_KILL_THREAD,
        Action::ScmpActKillProcess => libc::SECCOMP_RET_KILL_PROCESS,
        Action::ScmpActTrap => libc::SECCOMP_RET_TRAP,
        Action::ScmpActErrno => RET_ERRNO | data()?,
        Action::ScmpActTrace => libc::SECCOMP_RET_TRACE | data()?,
        Action::ScmpActLog => libc::SECCOMP_RET_LOG,
        Action::ScmpActAllow => libc::SECCOMP_RET_ALLOW,
        Action::ScmpActNotify if !prefix.is_empty() => {
            let name = name("action", "defaultAction");
            return Err(Error::invalid(format!("{name}: SCMP_ACT_NOTIFY cannot be used as default action")));
        }
        Action::ScmpActNotify => libc::SECCOMP_RET_USER_NOTIF,
    })
}

/// None if there is no such argument.
fn compare(arg: &LinuxSeccompArg) -> Option<Compare> {
    let index = u32::try_from(arg.index()).ok().filter(|index| *index < 6)?;
    let (test, negate) = match arg.op() {
        LinuxSeccompOperator::ScmpCmpEq | LinuxSeccompOperator::ScmpCmpMaskedEq => (Test::Eq, false),
        LinuxSeccompOperator::ScmpCmpNe => (Test::Eq, true),
        LinuxSeccompOperator::ScmpCmpGt => (Test::Gt, false),
        LinuxSeccompOperator::ScmpCmpLe => (Test::Gt, true),
        LinuxSeccompOperator::ScmpCmpGe => (Test::Ge, false),
        LinuxSeccompOperator::ScmpCmpLt => (Test::Ge, true),
    };
    // For MASKED_EQ, value is the mask and valueTwo what the masked argument must be (runtime-spec, config-linux).
    let (mask, value) = match arg.op() {
        LinuxSeccompOperator::ScmpCmpMaskedEq => (arg.value(), arg.value_two().unwrap_or(0) & arg.value()),
        _ => (u64::MAX, arg.value()),
    };
    Some(Compare { arg: index, test, negate, mask, value })
}

fn bad_index(field: &str, k: usize, arg: &LinuxSeccompArg) -> Error {
    Error::invalid(format!("{field}args[{k}].index: {}: a syscall has arguments 0 to 5", arg.index()))
}

/// All comparisons must hold, but one argument compared twice makes each comparison a rule of its own: what runc has
/// always done, and what profiles with several values for one argument count on.
fn rules(mut compares: Vec<Compare>) -> Vec<Vec<Compare>> {
    let mut seen = 0u8;
    let repeated = compares.iter().any(|c| {
        let before = seen;
        seen |= 1 << c.arg;
        seen == before
    });
    if repeated {
        return compares.into_iter().map(|c| vec![c]).collect();
    }
    compares.sort_unstable_by_key(|c| c.arg);
    vec![compares]
}

fn flags(flags: Option<&[Flag]>, listener: bool) -> u32 {
    let with = if listener { flag(libc::SECCOMP_FILTER_FLAG_NEW_LISTENER) } else { 0 };
    // No list at all, rather than an empty one, asks for SPEC_ALLOW in runc.
    let Some(flags) = flags else { return with | flag(libc::SECCOMP_FILTER_FLAG_SPEC_ALLOW) };
    flags.iter().fold(with, |all, f| {
        all | match f {
            Flag::SeccompFilterFlagLog => flag(libc::SECCOMP_FILTER_FLAG_LOG),
            Flag::SeccompFilterFlagSpecAllow => flag(libc::SECCOMP_FILTER_FLAG_SPEC_ALLOW),
            // The filter is loaded by a process with one thread: nothing to synchronise. runc ignores it too.
            Flag::SeccompFilterFlagTsync => 0,
            // How a listener is waited for; the kernel refuses it (EINVAL, 5.19) on a filter that has none.
            Flag::SeccompFilterFlagWaitKillableRecv if listener => WAIT_KILLABLE_RECV,
            Flag::SeccompFilterFlagWaitKillableRecv => 0,
        }
    })
}

/// Linux 5.19; not in the C library.
const WAIT_KILLABLE_RECV: u32 = 1 << 5;

fn flag(value: libc::c_ulong) -> u32 {
    u32::try_from(value).unwrap_or(0)
}

/// The machine's own convention is always covered. An architecture berth does not run on adds nothing: its calls
/// cannot be made on this machine, and would be killed as those of any architecture outside the list.
fn abis(profile: &LinuxSeccomp, native: Abi) -> Vec<Abi> {
    let mut abis = vec![native];
    for arch in profile.architectures().iter().flatten() {
        match Abi::from_oci(*arch, native) {
            Some(abi) if !abis.contains(&abi) => abis.push(abi),
            _ => (),
        }
    }
    abis
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::Kind;

    fn parse(profile: Value) -> LinuxSeccomp {
        serde_json::from_value(profile).unwrap()
    }

    fn one(entry: Value) -> LinuxSeccomp {
        parse(json!({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [entry]}))
    }

    fn error(profile: &LinuxSeccomp) -> (Kind, String) {
        let e = check(profile, Abi::X86_64).err().unwrap();
        (e.kind(), e.to_string())
    }

    #[test]
    fn errors_name_the_field() {
        let args =
            json!([{"index": 0, "value": 0, "op": "SCMP_CMP_EQ"}, {"index": 6, "value": 0, "op": "SCMP_CMP_EQ"}]);
        let third = json!({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [
            {"names": ["read"], "action": "SCMP_ACT_LOG"},
            {"names": ["read"], "action": "SCMP_ACT_LOG"},
            {"names": ["read"], "action": "SCMP_ACT_LOG", "args": args}]});
        let want = "linux.seccomp.syscalls[2].args[1].index: 6: a syscall has arguments 0 to 5";
        assert_eq!(error(&parse(third)), (Kind::InvalidArgument, want.to_owned()));

        let huge = json!({"names": ["read"], "action": "SCMP_ACT_ERRNO", "errnoRet": 65536});
        let want = "linux.seccomp.syscalls[0].errnoRet: 65536 does not fit the 16 bits of a seccomp action";
        assert_eq!(error(&one(huge)), (Kind::InvalidArgument, want.to_owned()));

        let huge = json!({"defaultAction": "SCMP_ACT_TRACE", "defaultErrnoRet": 70000});
        let want = "linux.seccomp.defaultErrnoRet: 70000 does not fit the 16 bits of a seccomp action";
        assert_eq!(error(&parse(huge)), (Kind::InvalidArgument, want.to_owned()));

        let empty = json!({"names": ["read", ""], "action": "SCMP_ACT_LOG"});
        let want = "linux.seccomp.syscalls[0].names[1]: empty string is not a valid syscall";
        assert_eq!(error(&one(empty)), (Kind::InvalidArgument, want.to_owned()));
    }

    #[test]
    fn what_may_not_notify_is_named() {
        let rule = one(json!({"names": ["read", "write"], "action": "SCMP_ACT_NOTIFY"}));
        let (kind, text) = error(&rule);
        let want = "linux.seccomp.syscalls[0].action: SCMP_ACT_NOTIFY cannot be used for the write syscall";
        assert!(kind == Kind::InvalidArgument && text.starts_with(want), "{text}");
        let default = parse(json!({"defaultAction": "SCMP_ACT_NOTIFY"}));
        let want = "linux.seccomp.defaultAction: SCMP_ACT_NOTIFY cannot be used as default action";
        assert_eq!(error(&default), (Kind::InvalidArgument, want.to_owned()));
    }

    #[test]
    fn a_listener_is_asked_for_where_a_rule_notifies() {
        let flags = |action: &str, flags: Value| {
            let profile = json!({"defaultAction": "SCMP_ACT_ALLOW", "flags": flags,
                "syscalls": [{"names": ["mkdir"], "action": action}]});
            check(&parse(profile), Abi::NATIVE.unwrap()).unwrap().flags
        };
        assert_eq!(flags("SCMP_ACT_NOTIFY", json!([])), 8);
        assert_eq!(flags("SCMP_ACT_NOTIFY", json!(["SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV"])), 8 | 32);
        assert_eq!(flags("SCMP_ACT_ERRNO", json!(["SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV"])), 0);
    }

    #[test]
    fn actions_carry_their_errno_and_only_those_that_have_one() {
        for (action, errno, raw) in [
            ("SCMP_ACT_KILL", Some(7), 0),
            ("SCMP_ACT_KILL_THREAD", None, 0),
            ("SCMP_ACT_KILL_PROCESS", None, 0x8000_0000),
            ("SCMP_ACT_TRAP", Some(7), 0x0003_0000),
            ("SCMP_ACT_ERRNO", None, 0x0005_0001),
            ("SCMP_ACT_ERRNO", Some(0), 0x0005_0000),
            ("SCMP_ACT_ERRNO", Some(38), 0x0005_0026),
            ("SCMP_ACT_TRACE", None, 0x7ff0_0001),
            ("SCMP_ACT_TRACE", Some(0xffff), 0x7ff0_ffff),
            ("SCMP_ACT_LOG", Some(70000), 0x7ffc_0000),
            ("SCMP_ACT_ALLOW", None, 0x7fff_0000),
        ] {
            let rule = one(json!({"names": [], "action": action, "errnoRet": errno}));
            assert_eq!(check(&rule, Abi::X86_64).unwrap().blocks[0].action, raw, "{action} {errno:?}");
            let default = parse(json!({"defaultAction": action, "defaultErrnoRet": errno}));
            assert_eq!(check(&default, Abi::X86_64).unwrap().default, raw, "{action} {errno:?}");
        }
    }

    #[test]
    fn no_flags_and_an_empty_list_differ() {
        for (flags, want) in [
            (json!(null), 4),
            (json!([]), 0),
            (json!(["SECCOMP_FILTER_FLAG_LOG"]), 2),
            (json!(["SECCOMP_FILTER_FLAG_TSYNC", "SECCOMP_FILTER_FLAG_SPEC_ALLOW"]), 4),
            (json!(["SECCOMP_FILTER_FLAG_LOG", "SECCOMP_FILTER_FLAG_SPEC_ALLOW"]), 6),
            (json!(["SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV"]), 0),
        ] {
            let profile = parse(json!({"defaultAction": "SCMP_ACT_ALLOW", "flags": flags}));
            assert_eq!(check(&profile, Abi::X86_64).unwrap().flags, want, "{flags}");
        }
    }

    #[test]
    fn only_actions_that_stop_a_call_get_the_stub() {
        for (action, stub) in [
            ("ALLOW", false),
            ("LOG", false),
            ("TRACE", false),
            ("ERRNO", true),
            ("TRAP", true),
            ("KILL", true),
            ("KILL_THREAD", true),
            ("KILL_PROCESS", true),
        ] {
            let profile = parse(json!({"defaultAction": format!("SCMP_ACT_{action}")}));
            assert_eq!(check(&profile, Abi::X86_64).unwrap().stub, stub, "{action}");
        }
    }

    #[test]
    fn the_machines_own_convention_is_always_there_and_first() {
        let abis = |list: Value, native| {
            let profile = parse(json!({"defaultAction": "SCMP_ACT_ALLOW", "architectures": list}));
            check(&profile, native).unwrap().abis
        };
        assert_eq!(abis(json!(null), Abi::X86_64), [Abi::X86_64]);
        assert_eq!(abis(json!(["SCMP_ARCH_X86", "SCMP_ARCH_X86"]), Abi::X86_64), [Abi::X86_64, Abi::X86]);
        assert_eq!(abis(json!(["SCMP_ARCH_ARM", "SCMP_ARCH_AARCH64"]), Abi::Aarch64), [Abi::Aarch64, Abi::Arm]);
        assert_eq!(abis(json!(["SCMP_ARCH_S390X", "SCMP_ARCH_NATIVE"]), Abi::Aarch64), [Abi::Aarch64]);
    }

    #[test]
    fn an_argument_compared_twice_splits_the_rule() {
        let arg = |index, value| json!({"index": index, "value": value, "op": "SCMP_CMP_EQ"});
        let rules = |args| {
            let profile = one(json!({"names": ["read"], "action": "SCMP_ACT_LOG", "args": args}));
            let lengths = |rules: &Vec<Vec<Compare>>| rules.iter().map(Vec::len).collect::<Vec<_>>();
            lengths(&check(&profile, Abi::X86_64).unwrap().blocks[0].rules)
        };
        assert_eq!(rules(json!(null)), [0]);
        assert_eq!(rules(json!([])), [0]);
        assert_eq!(rules(json!([arg(0, 1), arg(1, 1)])), [2]);
        assert_eq!(rules(json!([arg(0, 1), arg(1, 1), arg(0, 2)])), [1, 1, 1]);
    }
}
