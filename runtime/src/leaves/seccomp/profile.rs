//! Checks the OCI profile and turns it into the compiler's terms: raw actions, rules of comparisons, flags.
//!
//! All errors of form are found here and name their field, so [`super::rules`] need not check the form again.

use oci_spec::runtime::{
    LinuxSeccomp, LinuxSeccompAction as Action, LinuxSeccompArg, LinuxSeccompFilterFlag as Flag, LinuxSeccompOperator,
};

use super::{arch::Abi, bpf::Half};
use crate::{Error, Result};

/// `SECCOMP_RET_ERRNO`. The low 16 bits hold the errno.
pub const RET_ERRNO: u32 = libc::SECCOMP_RET_ERRNO;

/// A checked profile.
pub struct Profile<'a> {
    /// Raw action for calls that no rule matches.
    pub default: u32,
    /// Return ENOSYS for calls that are newer than all calls of the profile (runc's stub).
    pub stub: bool,
    /// Flags for `SECCOMP_SET_MODE_FILTER`.
    pub flags: u32,
    /// ABIs that the filter covers, the native one first.
    pub abis: Vec<Abi>,
    /// The entries of `syscalls`, in the profile's order.
    pub blocks: Vec<Block<'a>>,
}

/// One entry of `syscalls`.
pub struct Block<'a> {
    /// Calls that the entry applies to.
    pub names: &'a [String],
    /// Raw action.
    pub action: u32,
    /// Alternative rules. All comparisons of a rule must hold. Without arguments there is one rule without comparisons.
    pub rules: Vec<Vec<Compare>>,
}

/// A comparison of one argument with a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Compare {
    /// Index of the argument, 0 to 5.
    pub arg: u32,
    /// Relation of the masked argument to `value`.
    pub test: Test,
    /// The test must fail instead of hold: NE, LT and LE are negations of EQ, GE and GT.
    pub negate: bool,
    /// Bits that are compared; all of them except for MASKED_EQ.
    pub mask: u64,
    /// The value to compare with, masked.
    pub value: u64,
}

impl Compare {
    /// Returns mask and value of the high or the low 32 bits, because BPF compares 32 bits at a time.
    pub fn half(&self, which: Half) -> (u32, u32) {
        let half = |v: u64| {
            let [a, b, c, d, e, f, g, h] = v.to_le_bytes();
            u32::from_le_bytes(match which {
                Half::Low => [a, b, c, d],
                Half::High => [e, f, g, h],
            })
        };
        (half(self.mask), half(self.value))
    }
}

/// The comparisons of BPF, unsigned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Test {
    /// Equal.
    Eq,
    /// Greater.
    Gt,
    /// Greater or equal.
    Ge,
}

/// Checks a profile for a machine with the ABI `native`.
///
/// # Errors
/// [`crate::Kind::InvalidArgument`] with the name of the field (`linux.seccomp.…`).
pub fn check(profile: &LinuxSeccomp, native: Abi) -> Result<Profile<'_>> {
    let default =
        action(profile.default_action(), profile.default_errno_ret(), "default", || "linux.seccomp.".to_owned())?;
    let mut blocks = Vec::new();
    for (n, entry) in profile.syscalls().iter().flatten().enumerate() {
        let field = || format!("linux.seccomp.syscalls[{n}].");
        if entry.action() == Action::ScmpActNotify && entry.names().iter().any(|name| name == "write") {
            let why = "SCMP_ACT_NOTIFY cannot be used for the write syscall: the process needs it to send the listener";
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

/// Returns the raw action with runc's defaults: EPERM if the profile gives no errno. Actions without an errno ignore
/// it.
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

/// Translates one argument of a rule. Returns `None` if its index is not below 6.
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
    // For MASKED_EQ `value` is the mask, and `valueTwo` is the expected masked argument (runtime-spec, config-linux).
    let (mask, value) = match arg.op() {
        LinuxSeccompOperator::ScmpCmpMaskedEq => (arg.value(), arg.value_two().unwrap_or(0) & arg.value()),
        _ => (u64::MAX, arg.value()),
    };
    Some(Compare { arg: index, test, negate, mask, value })
}

fn bad_index(field: &str, k: usize, arg: &LinuxSeccompArg) -> Error {
    Error::invalid(format!("{field}args[{k}].index: {}: a syscall has arguments 0 to 5", arg.index()))
}

/// Groups the comparisons of an entry into rules. All comparisons of a rule must hold. If one argument is compared
/// twice, each comparison becomes a rule of its own. runc has always done this, and profiles rely on it.
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
    // As in runc, a missing list asks for SPEC_ALLOW, and an empty list does not.
    let Some(flags) = flags else { return with | flag(libc::SECCOMP_FILTER_FLAG_SPEC_ALLOW) };
    flags.iter().fold(with, |all, f| {
        all | match f {
            Flag::SeccompFilterFlagLog => flag(libc::SECCOMP_FILTER_FLAG_LOG),
            Flag::SeccompFilterFlagSpecAllow => flag(libc::SECCOMP_FILTER_FLAG_SPEC_ALLOW),
            // The loading process has one thread, so there is nothing to synchronise. runc ignores the flag too.
            Flag::SeccompFilterFlagTsync => 0,
            // The flag says how a call waits for the listener. On a filter without one the kernel returns EINVAL
            // (5.19).
            Flag::SeccompFilterFlagWaitKillableRecv if listener => WAIT_KILLABLE_RECV,
            Flag::SeccompFilterFlagWaitKillableRecv => 0,
        }
    })
}

/// Since Linux 5.19; the C library lacks it.
const WAIT_KILLABLE_RECV: u32 = 1 << 5;

fn flag(value: libc::c_ulong) -> u32 {
    u32::try_from(value).unwrap_or(0)
}

/// Returns the ABIs that the filter covers. The native ABI is always one of them. An architecture that berth does not
/// run on adds none: this machine cannot make its calls, and the filter kills calls of any unlisted ABI.
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
    fn seccomp_profile_errors_name_the_field() {
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
    fn notify_action_is_refused_for_write_and_as_default() {
        let rule = one(json!({"names": ["read", "write"], "action": "SCMP_ACT_NOTIFY"}));
        let (kind, text) = error(&rule);
        let want = "linux.seccomp.syscalls[0].action: SCMP_ACT_NOTIFY cannot be used for the write syscall";
        assert!(kind == Kind::InvalidArgument && text.starts_with(want), "{text}");
        let default = parse(json!({"defaultAction": "SCMP_ACT_NOTIFY"}));
        let want = "linux.seccomp.defaultAction: SCMP_ACT_NOTIFY cannot be used as default action";
        assert_eq!(error(&default), (Kind::InvalidArgument, want.to_owned()));
    }

    #[test]
    fn filter_asks_for_a_listener_if_a_rule_notifies() {
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
    fn only_errno_and_trace_actions_carry_an_errno() {
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
    fn missing_flags_ask_for_spec_allow_and_empty_flags_do_not() {
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
    fn only_default_actions_that_stop_a_call_get_the_enosys_stub() {
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
    fn native_abi_is_always_covered_and_first() {
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
    fn argument_compared_twice_splits_the_rule() {
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
