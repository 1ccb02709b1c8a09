//! `exec`: its options, and that an added process is never less restricted than init.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a test: what does not hold ends it")]

use berth_integration::{
    bundle::Bundle,
    case::skipped_on_runc,
    cgroup,
    runtime::{Runtime, wait_until},
};
use serde_json::{Value, json};

/// A container in which every restriction has a value other than the default.
fn restricted(words: &[&str]) -> Bundle {
    Bundle::probe(words)
        .set("/process/user", json!({"uid": 1000, "gid": 1001, "additionalGids": [1005, 1006], "umask": 0o27}))
        .set(
            "/process/rlimits",
            json!([{"type": "RLIMIT_NOFILE", "soft": 64, "hard": 65}, {"type": "RLIMIT_CORE", "soft": 0, "hard": 0}]),
        )
        .set("/process/oomScoreAdj", json!(300))
        .set("/process/cwd", json!("/work"))
        .set("/process/env", json!(["PATH=/", "HOME=/h", "A=1"]))
        .set(
            "/process/capabilities",
            json!({"bounding": ["CAP_KILL", "CAP_CHOWN"], "effective": ["CAP_KILL"], "permitted": ["CAP_KILL"],
            "inheritable": ["CAP_KILL"], "ambient": ["CAP_KILL"]}),
        )
        .set(
            "/linux/seccomp",
            json!({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["kcmp"], "action": "SCMP_ACT_ERRNO"}]}),
        )
        .dir("work", 0o755)
        .set("/linux/resources/pids", json!({"limit": 50}))
}

/// Returns the parts of a report about the rights and the place of a process, without what always differs.
fn restrictions(report: &Value) -> Value {
    let mut r = report.clone();
    for key in ["process", "fds", "args", "tty", "mountinfo", "dev"] {
        r.as_object_mut().unwrap().remove(key);
    }
    for key in
        ["dumpable", "securebits", "keepcaps", "subreaper", "pdeathsig", "personality", "policy", "nice", "affinity"]
    {
        r["process"][key] = report["process"][key].clone();
    }
    r
}

/// Returns the differences of init from processes that were added in both ways: ids, groups, all capability sets,
/// no_new_privs, seccomp, rlimits, umask, keyring, cgroups, namespaces.
fn differing(runtime: &Runtime) -> Vec<String> {
    runtime.start("c1", &restricted(&["report", "+", "sleep", "100"]));
    wait_until(|| runtime.stdout_of(0).contains('\n'), || "no report".into());
    let init: Value = serde_json::from_str(runtime.stdout_of(0).lines().next().unwrap()).unwrap();
    assert_eq!(init["seccomp"]["mode"], "2", "{init}");
    let file = runtime.work().join("process.json");
    let mut process = restricted(&["report"]).config["process"].clone();
    process["cwd"] = json!("/work");
    std::fs::write(&file, process.to_string()).unwrap();
    let by_words = runtime.exec("c1", &["/probe", "report"]).ok().json();
    let by_file = runtime.cmd(&["exec", "--process", file.to_str().unwrap(), "c1"]).ok().json();
    let expected = restrictions(&init);
    let mut wrong = vec![];
    for (way, report) in [("words", &by_words), ("process.json", &by_file)] {
        let actual = restrictions(report);
        for (key, value) in expected.as_object().unwrap() {
            if actual[key] != *value {
                wrong.push(format!("by {way}: {key} is {}, not {value}", actual[key]));
            }
        }
        if report["mountinfo"] != init["mountinfo"] {
            wrong.push(format!("by {way}: other mounts"));
        }
    }
    wrong
}

/// This is the most severe fault that an exec can have.
#[test]
fn exec_is_restricted_as_init_is() {
    let wrong = differing(&Runtime::new("parity"));
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// runc 1.1.5 does not set the umask of an exec. The comparison must find that.
#[test]
fn control_comparison_finds_the_umask_fault_of_runc_1_1_5() {
    let runtime = Runtime::faulty("parity-control");
    let wrong = differing(&runtime);
    assert!(wrong.iter().any(|w| w.starts_with("by process.json: umask")), "the control found only {wrong:#?}");
}

/// One call, and the expected report.
struct Row {
    options: &'static [&'static str],
    sees: &'static [(&'static str, &'static str)],
}

const ROWS: &[Row] = &[
    Row {
        options: &[],
        sees: &[("/ids/uid", "[0,0,0]"), ("/cwd", r#""/""#), ("/env/TERM", r#""xterm""#), ("/env/HOME", r#""/root""#)],
    },
    Row { options: &["--cwd", "/etc"], sees: &[("/cwd", r#""/etc""#)] },
    Row {
        options: &["-e", "A=1", "-e", "B=2", "-e", "TERM=dumb"],
        sees: &[("/env/A", r#""1""#), ("/env/B", r#""2""#), ("/env/TERM", r#""dumb""#)],
    },
    Row {
        options: &["--user", "1000"],
        sees: &[
            ("/ids", r#"{"uid":[1000,1000,1000],"gid":[0,0,0],"groups":[],"fsuid":1000,"fsgid":0}"#),
            ("/env/HOME", r#""/home/u""#),
        ],
    },
    Row { options: &["-u", "1000:1001"], sees: &[("/ids/uid", "[1000,1000,1000]"), ("/ids/gid", "[1001,1001,1001]")] },
    Row { options: &["--user=7"], sees: &[("/ids/uid/0", "7"), ("/env/HOME", r#""/""#)] },
    Row { options: &["--additional-gids", "5", "--additional-gids", "6"], sees: &[("/ids/groups", "[5,6]")] },
    Row { options: &["--no-new-privs"], sees: &[("/nnp", "1")] },
    Row { options: &["--cap", "CAP_CHOWN"], sees: &[("/caps/bounding", "536871969")] },
];

#[test]
fn exec_options_reach_the_process() {
    let runtime = Runtime::new("exec-options");
    let bundle = Bundle::probe(&["sleep", "100"])
        .file("etc/passwd", "root:x:0:0::/root:/\nu:x:1000:1000::/home/u:/\n", 0o644)
        .set("/process/noNewPrivileges", json!(false));
    runtime.start("c1", &bundle);
    let mut failed = vec![];
    for row in ROWS {
        let out = runtime.cmd(&[&["exec"], row.options, &["c1", "/probe", "report"]].concat());
        if out.code != 0 {
            failed.push(format!("{:?}: {out:#?}", row.options));
            continue;
        }
        let wrong = berth_integration::case::differences(&out.json(), row.sees);
        failed.extend(wrong.iter().map(|w| format!("{:?}: {w}", row.options)));
    }
    assert!(failed.is_empty(), "{}", failed.join("\n"));
}

/// CVE-2026-30892 and the like: a user is taken exactly or refused, and never becomes root by accident.
#[test]
fn exec_users_are_exact_or_refused() {
    let runtime = Runtime::new("exec-users");
    runtime.start("c1", &Bundle::probe(&["sleep", "100"]));
    let rows: &[(&str, Option<[u64; 2]>)] = &[
        ("0", Some([0, 0])),
        ("1", Some([1, 0])),
        ("1:2", Some([1, 2])),
        ("2147483647:2147483647", Some([2147483647, 2147483647])),
        ("-1", None),
        ("4294967295", None),
        ("4294967296", None),
        ("4294967297", None),
        ("18446744073709551616", None),
        ("1:", None),
        (":1", None),
        ("1:4294967296", None),
        ("0x1", None),
        (" 1", None),
        ("1 ", None),
        ("1x", None),
        ("root", None),
        ("1:2:3", None),
    ];
    // runc 1.5.1 takes the low 32 bits of these: 0 and 1.
    let wrapped = ["4294967296", "4294967297", "1:4294967296"];
    for (user, ids) in rows {
        if wrapped.contains(user) && skipped_on_runc(user, "it cuts ids to 32 bits") {
            continue;
        }
        let out = runtime.cmd(&["exec", &format!("--user={user}"), "c1", "/probe", "report", "ids"]);
        match ids {
            Some([uid, gid]) => {
                let report = out.ok().json();
                assert_eq!(report["ids"]["uid"], json!([uid, uid, uid]), "{user}");
                assert_eq!(report["ids"]["gid"], json!([gid, gid, gid]), "{user}");
            }
            None => assert!(out.code != 0 && !out.stdout.contains("ids"), "{user:?}: {out:#?}"),
        }
    }
}

/// runc 1.5.1 takes the low 32 bits of an id, which are root's.
#[test]
fn control_users_of_exec_find_the_cut_ids_of_runc_1_5_1() {
    let runtime = Runtime::peer("exec-users-control");
    runtime.start("c1", &Bundle::probe(&["sleep", "100"]));
    let out = runtime.cmd(&["exec", "--user=4294967296", "c1", "/probe", "report", "ids"]);
    let report = out.ok().json();
    assert_eq!(report["ids"]["uid"], json!([0, 0, 0]), "{report}");
}

#[test]
fn exec_joins_the_cgroup_of_a_limited_container() {
    let runtime = Runtime::new("exec-cgroup");
    // In its own cgroup namespace the container would see its cgroup as the root.
    runtime.start("c1", &restricted(&["sleep", "100"]).host_namespace("cgroup"));
    let report = runtime.exec("c1", &["/probe", "report", "cgroup"]).ok().json();
    let limited = if cgroup::is_v2() { "0::" } else { ":pids:" };
    let pids = report["cgroup"].as_array().unwrap().iter().find(|l| l.as_str().unwrap().contains(limited)).unwrap();
    assert!(pids.as_str().unwrap().ends_with(&runtime.cgroup("c1")), "{report}");
}

#[test]
fn ended_execs_leave_no_process() {
    let runtime = Runtime::new("exec-many");
    runtime.start("c1", &Bundle::probe(&["signal"]));
    let before = runtime.cmd(&["ps", "-f", "json", "c1"]).ok().stdout;
    for n in 0..10 {
        let code = n * 7;
        let out = runtime.exec("c1", &["/probe", "exit", &code.to_string()]);
        assert_eq!(out.code, code, "{out:#?}");
    }
    assert_eq!(runtime.cmd(&["ps", "-f", "json", "c1"]).ok().stdout, before);
    runtime.exec("c1", &["nosuch"]).fails(255, &[]);
    assert_eq!(runtime.cmd(&["ps", "-f", "json", "c1"]).ok().stdout, before);
}

#[test]
fn exec_with_ignore_paused_starts_in_a_paused_container() {
    let runtime = Runtime::new("exec-paused");
    runtime.start("c1", &Bundle::probe(&["sleep", "100"]));
    runtime.cmd(&["pause", "c1"]).ok();
    let exec = runtime.call(&["exec", "--ignore-paused", "c1", "/probe", "exit", "5"]).spawn();
    // The process exists and is frozen like all others.
    wait_until(|| cgroup::processes(&runtime.cgroup("c1")).len() > 1, || "no second process".into());
    runtime.cmd(&["resume", "c1"]).ok();
    assert_eq!(exec.wait().code, 5);
}
