//! Seccomp: the verdicts of a container's filter, tried by the calls inside. Numbers are x86_64's.
//!
//! `getppid` (110) takes no arguments, so rules about arguments can be tried on it with any values. It returns 0 to
//! init.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a test: what does not hold ends it")]
#![cfg(target_arch = "x86_64")]

use berth_integration::{
    bundle::Bundle,
    case::{Refusal, refused, skipped_on_runc},
    runtime::Runtime,
};
use serde_json::{Value, json};

/// One profile and the results of calls: the kernel's result, minus errno for a failure.
struct Row {
    name: &'static str,
    profile: &'static str,
    calls: &'static [(&'static str, i64)],
}

const ROWS: &[Row] = &[
    Row {
        name: "errno with a number of its own",
        profile: r#"{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"names":["getppid"],"action":"SCMP_ACT_ERRNO","errnoRet":77}]}"#,
        calls: &[("110", -77), ("39", 1)],
    },
    Row {
        name: "errno without one is EPERM",
        profile: r#"{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"names":["getppid","getpid"],"action":"SCMP_ACT_ERRNO"}]}"#,
        calls: &[("110", -1), ("39", -1)],
    },
    Row {
        name: "errno 0 is success",
        profile: r#"{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"names":["getpid"],"action":"SCMP_ACT_ERRNO","errnoRet":0}]}"#,
        calls: &[("39", 0)],
    },
    Row {
        name: "names the kernel does not know are passed over",
        profile: r#"{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"names":["no_such_call","getppid"],"action":"SCMP_ACT_ERRNO","errnoRet":77}]}"#,
        calls: &[("110", -77)],
    },
    Row {
        name: "log lets it through",
        profile: r#"{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"names":["getppid"],"action":"SCMP_ACT_LOG"}]}"#,
        calls: &[("110", 0)],
    },
    Row {
        name: "trace without a tracer is ENOSYS",
        profile: r#"{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"names":["getppid"],"action":"SCMP_ACT_TRACE","errnoRet":5}]}"#,
        calls: &[("110", -38)],
    },
    Row {
        name: "equal, in all 64 bits",
        profile: r#"{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"names":["getppid"],"action":"SCMP_ACT_ERRNO","errnoRet":77,
            "args":[{"index":0,"value":4294967301,"op":"SCMP_CMP_EQ"}]}]}"#,
        calls: &[("110:4294967301", -77), ("110:5", 0), ("110:4294967300", 0), ("110:8589934597", 0)],
    },
    Row {
        name: "not equal",
        profile: r#"{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"names":["getppid"],"action":"SCMP_ACT_ERRNO","errnoRet":77,
            "args":[{"index":5,"value":5,"op":"SCMP_CMP_NE"}]}]}"#,
        calls: &[("110:0,0,0,0,0,5", 0), ("110:0,0,0,0,0,6", -77), ("110:0,0,0,0,0,4294967301", -77)],
    },
    Row {
        name: "less",
        profile: r#"{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"names":["getppid"],"action":"SCMP_ACT_ERRNO","errnoRet":77,
            "args":[{"index":1,"value":4294967296,"op":"SCMP_CMP_LT"}]}]}"#,
        calls: &[
            ("110:0,4294967295", -77),
            ("110:0,4294967296", 0),
            ("110:0,4294967297", 0),
            ("110:0,-1", 0),
            ("110:0,0", -77),
        ],
    },
    Row {
        name: "less or equal",
        profile: r#"{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"names":["getppid"],"action":"SCMP_ACT_ERRNO","errnoRet":77,
            "args":[{"index":2,"value":4294967296,"op":"SCMP_CMP_LE"}]}]}"#,
        calls: &[("110:0,0,4294967296", -77), ("110:0,0,4294967297", 0), ("110:0,0,8589934592", 0), ("110:0,0,7", -77)],
    },
    Row {
        name: "greater",
        profile: r#"{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"names":["getppid"],"action":"SCMP_ACT_ERRNO","errnoRet":77,
            "args":[{"index":3,"value":4294967296,"op":"SCMP_CMP_GT"}]}]}"#,
        calls: &[
            ("110:0,0,0,4294967296", 0),
            ("110:0,0,0,4294967297", -77),
            ("110:0,0,0,8589934592", -77),
            ("110:0,0,0,4294967295", 0),
        ],
    },
    Row {
        name: "greater or equal",
        profile: r#"{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"names":["getppid"],"action":"SCMP_ACT_ERRNO","errnoRet":77,
            "args":[{"index":4,"value":4294967296,"op":"SCMP_CMP_GE"}]}]}"#,
        calls: &[("110:0,0,0,0,4294967296", -77), ("110:0,0,0,0,4294967295", 0), ("110:0,0,0,0,8589934593", -77)],
    },
    Row {
        name: "masked equal",
        profile: r#"{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"names":["getppid"],"action":"SCMP_ACT_ERRNO","errnoRet":77,
            "args":[{"index":0,"value":2114060288,"valueTwo":131072,"op":"SCMP_CMP_MASKED_EQ"}]}]}"#,
        calls: &[
            ("110:131072", -77),
            ("110:131073", -77),
            ("110:0", 0),
            ("110:4295098368", -77),
            ("110:2114060288", 0),
        ],
    },
    Row {
        name: "all conditions of a rule must hold, any of several rules",
        profile: r#"{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[
            {"names":["getppid"],"action":"SCMP_ACT_ERRNO","errnoRet":77,
             "args":[{"index":0,"value":1,"op":"SCMP_CMP_EQ"},{"index":1,"value":2,"op":"SCMP_CMP_EQ"}]},
            {"names":["getppid"],"action":"SCMP_ACT_ERRNO","errnoRet":78,"args":[{"index":2,"value":3,"op":"SCMP_CMP_EQ"}]}]}"#,
        calls: &[("110:1,2,0", -77), ("110:1,0,0", 0), ("110:0,2,0", 0), ("110:0,0,3", -78)],
    },
    Row {
        name: "two conditions on one argument are two rules, as runc has it",
        profile: r#"{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"names":["getppid"],"action":"SCMP_ACT_ERRNO","errnoRet":77,
            "args":[{"index":0,"value":1,"op":"SCMP_CMP_EQ"},{"index":0,"value":2,"op":"SCMP_CMP_EQ"}]}]}"#,
        calls: &[("110:1", -77), ("110:2", -77), ("110:3", 0)],
    },
    Row {
        name: "an allow list",
        profile: ALLOW_LIST,
        // The default action denies one call. A call that is newer than the profile gets ENOSYS, so that libraries fall
        // back.
        calls: &[("110", 0), ("135:0xffffffff", -1), ("83:@/x,0", -1), ("999", -38), ("600", -38)],
    },
    Row {
        name: "an allow list with an errno of its own",
        profile: ALLOW_LIST_77,
        calls: &[("110", 0), ("135:0xffffffff", -77), ("83:@/x,0", -77)],
    },
    Row {
        name: "three architectures in one filter: x32 numbers are judged by their own rules",
        profile: r#"{"defaultAction":"SCMP_ACT_ALLOW","architectures":["SCMP_ARCH_X86_64","SCMP_ARCH_X86","SCMP_ARCH_X32"],
            "syscalls":[{"names":["getppid"],"action":"SCMP_ACT_ERRNO","errnoRet":77}]}"#,
        calls: &[("110", -77), ("0x4000006e", -77), ("39", 1)],
    },
];

/// The calls that an allow list must have for a runtime (runc's init is a Go program with threads) and the static
/// probe.
macro_rules! needed {
    () => {
        r#""syscalls":[{"action":"SCMP_ACT_ALLOW","names":["arch_prctl","brk","capget","capset","chdir","clock_gettime","clone","clone3",
        "close","close_range","dup","dup2","dup3","epoll_create1","epoll_ctl","epoll_pwait","eventfd2","execve","execveat","exit",
        "exit_group","fchdir","fchown","fcntl","fstat","fstatfs","futex","getcwd","getdents64","getegid","geteuid","getgid",
        "getgroups","getpid","getppid","getrandom","gettid","getuid","ioctl","keyctl","lseek","lstat","madvise","membarrier","mmap",
        "mprotect","mremap","munmap","nanosleep","newfstatat","open","openat","openat2","pipe2","poll","ppoll","prctl","pread64",
        "prlimit64","read","readlink","readlinkat","restart_syscall","rseq","rt_sigaction","rt_sigprocmask","rt_sigreturn",
        "sched_getaffinity","sched_yield","seccomp","set_robust_list","set_tid_address","setgid","setgroups","setresgid",
        "setresuid","setuid","sigaltstack","stat","statfs","statx","tgkill","umask","uname","wait4","waitid","write","writev"]}]}"#
    };
}

const ALLOW_LIST: &str =
    concat!(r#"{"defaultAction":"SCMP_ACT_ERRNO","architectures":["SCMP_ARCH_X86_64"],"#, needed!());

const ALLOW_LIST_77: &str = concat!(
    r#"{"defaultAction":"SCMP_ACT_ERRNO","defaultErrnoRet":77,"architectures":["SCMP_ARCH_X86_64"],"#,
    needed!()
);

fn profiled(words: &[&str], profile: &str) -> Bundle {
    let profile: Value = serde_json::from_str(profile).unwrap_or_else(|e| panic!("{e}: {profile}"));
    Bundle::probe(words).set("/linux/seccomp", profile)
}

fn wrong(name: &str, out: &Value, calls: &[(&str, i64)]) -> Vec<String> {
    let told = |(call, expected): &(&str, i64)| {
        let actual = &out["syscall"][call];
        (*actual != *expected).then(|| format!("{name}: {call} gave {actual}, not {expected}"))
    };
    calls.iter().filter_map(told).collect()
}

#[test]
fn seccomp_verdicts_hold_for_init() {
    let runtime = Runtime::new("seccomp");
    let mut failed = vec![];
    for row in ROWS {
        let words: Vec<&str> = ["syscall"].into_iter().chain(row.calls.iter().map(|c| c.0)).collect();
        let out = runtime.run("c1", &profiled(&words, row.profile));
        if out.code == 0 {
            failed.extend(wrong(row.name, &out.json(), row.calls));
        } else {
            failed.push(format!("{}: {out:#?}", row.name));
        }
    }
    assert!(failed.is_empty(), "{} faults:\n{}", failed.len(), failed.join("\n"));
}

#[test]
fn seccomp_verdicts_hold_for_exec() {
    let runtime = Runtime::new("seccomp-exec");
    let profile = r#"{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"names":["getppid"],"action":"SCMP_ACT_ERRNO","errnoRet":77}]}"#;
    runtime.start("c1", &profiled(&["sleep", "100"], profile));
    for user in ["0", "1000"] {
        let out =
            runtime.cmd(&["exec", "--user", user, "c1", "/probe", "syscall", "110", "+", "report", "seccomp"]).ok();
        let lines: Vec<Value> = out.stdout.lines().map(|l| serde_json::from_str(l).unwrap()).collect();
        assert_eq!(lines[0]["syscall"]["110"], -77, "{user}: {out:#?}");
        assert_eq!(lines[1]["seccomp"]["mode"], "2", "{user}: {out:#?}");
    }
}

/// The filter is loaded and the ids are right for each combination of no_new_privs and user.
#[test]
fn seccomp_filter_is_loaded_with_and_without_no_new_privs() {
    // The rule is not about getppid, which runc itself calls after it loaded the filter early.
    const PGRP: &str = r#"{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"names":["getpgrp"],"action":"SCMP_ACT_ERRNO","errnoRet":77}]}"#;
    let runtime = Runtime::new("seccomp-nnp");
    for nnp in [json!(true), json!(false), Value::Null] {
        for uid in [0, 1000] {
            let bundle = profiled(&["report", "seccomp", "ids", "nnp", "+", "syscall", "111"], PGRP)
                .set("/process/noNewPrivileges", nnp.clone())
                .set("/process/user", json!({"uid": uid, "gid": uid}))
                .edit(|c| {
                    if nnp.is_null() {
                        c["process"].as_object_mut().unwrap().remove("noNewPrivileges");
                    }
                });
            let out = runtime.run("c1", &bundle).ok();
            let lines: Vec<Value> = out.stdout.lines().map(|l| serde_json::from_str(l).unwrap()).collect();
            assert_eq!(lines[0]["seccomp"]["mode"], "2", "{nnp} {uid}: {out:#?}");
            assert_eq!(lines[0]["ids"]["uid"], json!([uid, uid, uid]), "{nnp}: {out:#?}");
            assert_eq!(lines[0]["nnp"], i32::from(nnp == true), "{nnp} {uid}: {out:#?}");
            assert_eq!(lines[1]["syscall"]["111"], -77, "{nnp} {uid}: {out:#?}");
        }
    }
}

#[test]
fn no_seccomp_profile_means_no_filter() {
    let report = Runtime::new("no-seccomp").run("c1", &Bundle::probe(&["report", "seccomp"])).ok().json();
    assert_eq!(report["seccomp"]["mode"], "0", "{report}");
}

#[test]
fn killing_actions_end_the_process_with_sigsys() {
    let runtime = Runtime::new("seccomp-kill");
    for action in ["SCMP_ACT_KILL", "SCMP_ACT_KILL_THREAD", "SCMP_ACT_KILL_PROCESS", "SCMP_ACT_TRAP"] {
        let profile =
            json!({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["getppid"], "action": action}]});
        let out = runtime
            .run("c1", &profiled(&["say", "before", "+", "syscall", "110", "+", "say", "after"], &profile.to_string()));
        assert_eq!((out.code, out.stdout.as_str()), (128 + libc::SIGSYS, "before\n"), "{action}: {out:#?}");
    }
}

#[test]
fn seccomp_filter_flags_are_taken() {
    let runtime = Runtime::new("seccomp-flags");
    for flags in [
        json!([]),
        json!(["SECCOMP_FILTER_FLAG_LOG"]),
        json!(["SECCOMP_FILTER_FLAG_SPEC_ALLOW"]),
        json!(["SECCOMP_FILTER_FLAG_TSYNC"]),
        json!(["SECCOMP_FILTER_FLAG_LOG", "SECCOMP_FILTER_FLAG_SPEC_ALLOW"]),
    ] {
        let bundle = profiled(&["syscall", "110"], ROWS[0].profile).set("/linux/seccomp/flags", flags.clone());
        let out = runtime.run("c1", &bundle).ok();
        assert_eq!(out.json()["syscall"]["110"], -77, "{flags}");
    }
}

/// The annotation is crun's. It never replaces a profile.
#[test]
fn bpf_annotation_of_crun_becomes_the_filter() {
    if skipped_on_runc("bpf_annotation_of_crun_becomes_the_filter", "it takes no filter from an annotation") {
        return;
    }
    // ld [0]; jeq #110, 0, 1; ret ERRNO 77; ret ALLOW
    const GETPPID: &str = "IAAAAAAAAAAVAAABbgAAAAYAAABNAAUABgAAAAAA/38=";
    let annotated = |text: &str| {
        let words = ["syscall", "110", "39", "+", "sleep", "100"];
        Bundle::probe(&words).edit(|c| c["annotations"] = json!({"run.oci.seccomp_bpf_data": text}))
    };
    let runtime = Runtime::new("seccomp-bpf");
    let out = runtime.run("c1", &annotated(GETPPID).set("/process/args", json!(["/probe", "syscall", "110", "39"])));
    assert_eq!(wrong("init", &out.ok().json(), &[("110", -77), ("39", 1)]), [""; 0]);
    runtime.start("c2", &annotated(GETPPID));
    let out = runtime.cmd(&["exec", "c2", "/probe", "syscall", "110"]).ok();
    assert_eq!(wrong("exec", &out.json(), &[("110", -77)]), [""; 0]);
    for (bundle, words) in [
        (annotated("hwAAAAAAAAA="), "run.oci.seccomp_bpf_data: instruction 0"),
        (annotated("what"), "run.oci.seccomp_bpf_data: 3 bytes"),
        (
            annotated(GETPPID).set("/linux/seccomp", json!({"defaultAction": "SCMP_ACT_ALLOW"})),
            "there is linux.seccomp",
        ),
    ] {
        let out = runtime.run("c3", &bundle);
        assert!(out.code == 1 && out.stderr.contains(words), "{out:#?}");
    }
}

#[test]
fn bad_seccomp_profiles_are_refused() {
    refused("seccomp-refused", REFUSED);
}

fn bad(bundle: Bundle, profile: Value) -> Bundle {
    bundle.set("/linux/seccomp", profile)
}

const REFUSED: &[Refusal] = &[
    Refusal {
        name: "an unknown action",
        set: |b| bad(b, json!({"defaultAction": "SCMP_ACT_SHRUG"})),
        says: &["SCMP_ACT_SHRUG"],
    },
    Refusal {
        name: "an unknown operator",
        set: |b| {
            let arg = json!({"index": 0, "value": 1, "op": "SCMP_CMP_ISH"});
            bad(
                b,
                json!({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["getpid"], "action": "SCMP_ACT_ERRNO", "args": [arg]}]}),
            )
        },
        says: &["SCMP_CMP_ISH"],
    },
    Refusal {
        name: "an unknown architecture",
        set: |b| bad(b, json!({"defaultAction": "SCMP_ACT_ALLOW", "architectures": ["SCMP_ARCH_PDP11"]})),
        says: &["SCMP_ARCH_PDP11"],
    },
    Refusal {
        name: "an unknown flag",
        set: |b| {
            bad(
                b,
                json!({"defaultAction": "SCMP_ACT_ALLOW", "flags": ["SECCOMP_FILTER_FLAG_FLY"], "syscalls": [{"names": ["getpid"], "action": "SCMP_ACT_ERRNO"}]}),
            )
        },
        says: &["SECCOMP_FILTER_FLAG_FLY"],
    },
];

/// A warning may explain the error, so it comes first and also if the check of the request fails.
#[test]
fn warnings_of_a_request_precede_the_error_of_its_check() {
    if skipped_on_runc("warnings first", "the annotation is crun's") {
        return;
    }
    let runtime = Runtime::new("warnings-first");
    // Odd values, so that no two rules become one range: the filter is longer than the kernel accepts.
    let rule = |n: u32| {
        json!({"names": ["getppid"], "action": "SCMP_ACT_ERRNO",
            "args": [{"index": 0, "value": 2 * n + 1, "op": "SCMP_CMP_EQ"}]})
    };
    let rules: Vec<Value> = (0..5000).map(rule).collect();
    let bundle = Bundle::probe(&["report"])
        .set("/annotations", json!({"run.oci.keep_original_groups": "1"}))
        .set("/linux/seccomp", json!({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": rules}));
    let out = runtime.create("c1", &bundle).fails(1, &["linux.seccomp"]);
    let at = |word: &str| out.stderr.find(word).unwrap_or_else(|| panic!("no {word:?} in {out:?}"));
    assert!(at("keeps the runtime's groups") < at("linux.seccomp"), "{out:?}");
    runtime.assert_clean("a refused filter");
}
