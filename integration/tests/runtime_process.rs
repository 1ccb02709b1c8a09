//! `process` of config.json, as the container's process sees it.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a test: what does not hold ends it")]

use berth_integration::{
    bundle::Bundle,
    case::{Case, Refusal, all, refused, skipped_on_runc},
    runtime::{Call, Runtime},
};
use serde_json::json;

#[test]
fn process_has_the_configured_arguments_and_environment() {
    all("args", ARGS);
}

const ARGS: &[Case] = &[
    Case {
        name: "arguments arrive as they are",
        set: |b| b.args(&["/probe", "report", "args", "+", "say", "", "a b", "é\n\"\\"]),
        sees: &[("/args", r#"["/probe","report","args","+","say","","a b","é\n\"\\"]"#)],
    },
    Case {
        name: "a bare name is looked up in the container's PATH, and stays the first argument",
        set: |b| {
            b.link("opt/t/tool", "/probe").set("/process/env", json!(["PATH=/none:/opt/t"])).args(&["tool", "report"])
        },
        sees: &[("/args/0", r#""tool""#), ("/env/PATH", r#""/none:/opt/t""#)],
    },
    Case {
        name: "what is not executable in PATH is passed over",
        set: |b| {
            b.file("a/tool", "x", 0o644)
                .dir("b/tool", 0o755)
                .link("c/tool", "/probe")
                .set("/process/env", json!(["PATH=/a:/b:/c"]))
                .args(&["tool", "report"])
        },
        sees: &[("/args/0", r#""tool""#)],
    },
    Case {
        name: "a relative name with a slash counts from cwd",
        set: |b| b.link("opt/t/tool", "/probe").set("/process/cwd", json!("/opt")).args(&["t/tool", "report"]),
        sees: &[("/args/0", r#""t/tool""#), ("/cwd", r#""/opt""#)],
    },
    Case {
        name: "the environment is the configured one, and HOME",
        set: |b| b.set("/process/env", json!(["A=1", "EMPTY=", "B=x=y", "PATH=/"])),
        sees: &[("/env", r#"{"A":"1","EMPTY":"","B":"x=y","PATH":"/","HOME":"/"}"#)],
    },
    Case {
        name: "of a name that comes twice the last counts",
        set: |b| b.set("/process/env", json!(["A=1", "A=2"])),
        sees: &[("/env/A", r#""2""#)],
    },
    Case {
        name: "HOME comes from the container's own passwd",
        set: |b| b.file("etc/passwd", "nobody:x:65534:1::/n:/\nroot:x:0:0:r:/home/r:/bin/sh\n", 0o644),
        sees: &[("/env/HOME", r#""/home/r""#)],
    },
    Case {
        name: "HOME of a numeric user that has an entry",
        set: |b| {
            b.file("etc/passwd", "root:x:0:0::/root:/\nu:x:1000:1000::/home/u:/\n", 0o644)
                .set("/process/user", json!({"uid": 1000, "gid": 1000}))
        },
        sees: &[("/env/HOME", r#""/home/u""#)],
    },
    Case {
        name: "HOME of a user without an entry is /",
        set: |b| {
            b.file("etc/passwd", "root:x:0:0::/root:/\n", 0o644).set("/process/user", json!({"uid": 77, "gid": 0}))
        },
        sees: &[("/env/HOME", r#""/""#)],
    },
    Case {
        name: "a HOME that is configured stays",
        set: |b| {
            b.file("etc/passwd", "root:x:0:0::/root:/\n", 0o644)
                .set("/process/env", json!(["HOME=/elsewhere", "PATH=/"]))
        },
        sees: &[("/env/HOME", r#""/elsewhere""#)],
    },
];

#[test]
fn process_starts_in_the_configured_directory() {
    all("cwd", CWD);
}

const CWD: &[Case] = &[
    Case {
        name: "an existing one",
        set: |b| b.dir("w", 0o755).set("/process/cwd", json!("/w")),
        sees: &[("/cwd", r#""/w""#)],
    },
    Case {
        name: "a missing one is made, with its parents",
        set: |b| b.set("/process/cwd", json!("/made/for/it")).args(&["/probe", "report", "cwd", "stat=/made/for/it"]),
        sees: &[
            ("/cwd", r#""/made/for/it""#),
            ("/stat/~1made~1for~1it/mode", "493"),
            ("/stat/~1made~1for~1it/uid", "0"),
        ],
    },
    Case {
        name: "one that only the user may enter",
        set: |b| b.dir("w", 0o700).set("/process/cwd", json!("/w")).set("/process/user", json!({"uid": 0, "gid": 7})),
        sees: &[("/cwd", r#""/w""#)],
    },
    Case {
        name: "a link to a directory of the container",
        set: |b| b.dir("w", 0o755).link("l", "/w").set("/process/cwd", json!("/l")),
        sees: &[("/cwd", r#""/w""#)],
    },
    Case {
        name: "one on a mount of its own",
        set: |b| b.mount("/w", "tmpfs", "tmpfs", &["mode=755"]).set("/process/cwd", json!("/w/x")),
        sees: &[("/cwd", r#""/w/x""#)],
    },
];

#[test]
fn process_has_the_configured_ids_and_groups() {
    all("identity", IDENTITY);
}

/// The annotation is crun's and keeps the caller's groups, for podman's `--group-add keep-groups`.
#[test]
fn keep_original_groups_annotation_keeps_the_callers_groups() {
    if skipped_on_runc("keep_original_groups_annotation_keeps_the_callers_groups", "the annotation is crun's") {
        return;
    }
    let runtime = Runtime::new("keep-groups");
    let bundle = |words: &[&str]| {
        Bundle::probe(words)
            .set("/annotations", json!({"run.oci.keep_original_groups": "1"}))
            .set("/process/user", json!({"uid": 1000, "gid": 1000, "additionalGids": [7]}))
    };
    let with_groups = ["setpriv", "--groups=5,1234"];
    let groups = |call: Call<'_>| call.through(&with_groups).wait().ok().json()["ids"]["groups"].clone();
    let report = bundle(&["report", "ids"]);
    assert_eq!(groups(runtime.on("run", "c1", &report)), json!([5, 1234]));
    let users = json!([{"containerID": 0, "hostID": 0, "size": 2000}]);
    let inside = bundle(&["report", "ids"]).namespace("user", "");
    let inside = inside.set("/linux/uidMappings", users.clone()).set("/linux/gidMappings", users);
    assert_eq!(groups(runtime.on("run", "c1", &inside)), json!([5, 1234]));

    runtime.start("c1", &bundle(&["signal"]));
    assert_eq!(groups(runtime.call(&["exec", "c1", "/probe", "report", "ids"])), json!([5, 1234]));
    runtime.cmd(&["delete", "--force", "c1"]).ok();
    runtime.start("c1", &Bundle::probe(&["signal"]));
    assert_eq!(groups(runtime.call(&["exec", "c1", "/probe", "report", "ids"])), json!([]), "without the annotation");
    runtime.cmd(&["delete", "--force", "c1"]).ok();
    runtime.assert_clean("groups of the caller");
}

const IDENTITY: &[Case] = &[
    Case {
        name: "root without groups",
        set: |b| b,
        sees: &[("/ids", r#"{"uid":[0,0,0],"gid":[0,0,0],"groups":[],"fsuid":0,"fsgid":0}"#)],
    },
    Case {
        name: "all four kinds of uid and gid, and exactly these groups",
        set: |b| b.set("/process/user", json!({"uid": 1000, "gid": 1001, "additionalGids": [6, 5, 1001]})),
        sees: &[(
            "/ids",
            r#"{"uid":[1000,1000,1000],"gid":[1001,1001,1001],"groups":[5,6,1001],"fsuid":1000,"fsgid":1001}"#,
        )],
    },
    Case {
        name: "the greatest ids that are no special values",
        set: |b| b.set("/process/user", json!({"uid": 2147483647u32, "gid": 2147483647u32})),
        sees: &[("/ids/uid/1", "2147483647"), ("/ids/gid/1", "2147483647")],
    },
    Case {
        name: "a user whose number is another's name",
        set: |b| {
            b.file("etc/passwd", "1000:x:0:0::/root:/\n", 0o644).set("/process/user", json!({"uid": 1000, "gid": 1}))
        },
        sees: &[("/ids/uid", "[1000,1000,1000]")],
    },
    Case {
        name: "umask",
        set: |b| b.set("/process/user", json!({"uid": 0, "gid": 0, "umask": 0o27})),
        sees: &[("/umask", "23")],
    },
    Case {
        name: "umask 0 is not the same as none",
        set: |b| b.set("/process/user", json!({"uid": 0, "gid": 0, "umask": 0})),
        sees: &[("/umask", "0")],
    },
    Case {
        name: "a process of its own session, with nothing of the runtime's",
        set: |b| b,
        sees: &[
            ("/process/pid", "1"),
            ("/process/ppid", "0"),
            ("/process/sid", "1"),
            ("/process/pgid", "1"),
            ("/process/subreaper", "0"),
            ("/process/pdeathsig", "0"),
            ("/process/keepcaps", "0"),
            ("/process/securebits", "0"),
            ("/process/dumpable", "1"),
            ("/process/exe", r#""/probe""#),
            ("/signals", r#"{"blocked":[],"ignored":[],"caught":[]}"#),
        ],
    },
    Case {
        name: "host name and domain name",
        set: |b| b.set("/hostname", json!("ship.example")).set("/domainname", json!("sea")),
        sees: &[("/uts/hostname", r#""ship.example""#), ("/uts/domainname", r#""sea""#)],
    },
];

#[test]
fn process_has_the_configured_rlimits_and_flags() {
    all("limits", LIMITS);
}

const LIMITS: &[Case] = &[
    Case {
        name: "rlimits, soft and hard apart",
        set: |b| {
            b.set("/process/rlimits", json!([
                {"type": "RLIMIT_NOFILE", "soft": 100, "hard": 200}, {"type": "RLIMIT_CORE", "soft": 0, "hard": 0},
                {"type": "RLIMIT_STACK", "soft": 1048576, "hard": 8388608}, {"type": "RLIMIT_NPROC", "soft": 50, "hard": 60},
                {"type": "RLIMIT_CPU", "soft": 1000, "hard": 2000}, {"type": "RLIMIT_MEMLOCK", "soft": 4096, "hard": 8192},
                {"type": "RLIMIT_FSIZE", "soft": 1 << 30, "hard": 1u64 << 31}, {"type": "RLIMIT_MSGQUEUE", "soft": 1, "hard": 2},
                {"type": "RLIMIT_SIGPENDING", "soft": 3, "hard": 4}, {"type": "RLIMIT_LOCKS", "soft": 5, "hard": 6},
                {"type": "RLIMIT_RSS", "soft": 7, "hard": 8}, {"type": "RLIMIT_RTTIME", "soft": 9, "hard": 10},
                {"type": "RLIMIT_AS", "soft": 1u64 << 40, "hard": 1u64 << 41}, {"type": "RLIMIT_DATA", "soft": 1u64 << 40, "hard": 1u64 << 41},
            ]))
        },
        sees: &[
            ("/rlimits/RLIMIT_NOFILE", "[100,200]"),
            ("/rlimits/RLIMIT_CORE", "[0,0]"),
            ("/rlimits/RLIMIT_STACK", "[1048576,8388608]"),
            ("/rlimits/RLIMIT_NPROC", "[50,60]"),
            ("/rlimits/RLIMIT_CPU", "[1000,2000]"),
            ("/rlimits/RLIMIT_MEMLOCK", "[4096,8192]"),
            ("/rlimits/RLIMIT_FSIZE", "[1073741824,2147483648]"),
            ("/rlimits/RLIMIT_MSGQUEUE", "[1,2]"),
            ("/rlimits/RLIMIT_SIGPENDING", "[3,4]"),
            ("/rlimits/RLIMIT_LOCKS", "[5,6]"),
            ("/rlimits/RLIMIT_RSS", "[7,8]"),
            ("/rlimits/RLIMIT_RTTIME", "[9,10]"),
            ("/rlimits/RLIMIT_AS", "[1099511627776,2199023255552]"),
            ("/rlimits/RLIMIT_DATA", "[1099511627776,2199023255552]"),
        ],
    },
    Case { name: "no_new_privs on", set: |b| b.set("/process/noNewPrivileges", json!(true)), sees: &[("/nnp", "1")] },
    Case { name: "no_new_privs off", set: |b| b.set("/process/noNewPrivileges", json!(false)), sees: &[("/nnp", "0")] },
    Case { name: "no_new_privs unsaid", set: |b| b.unset("/process/noNewPrivileges"), sees: &[("/nnp", "0")] },
    Case { name: "oom_score_adj", set: |b| b.set("/process/oomScoreAdj", json!(500)), sees: &[("/oom", r#""500""#)] },
    Case {
        name: "oom_score_adj 1000",
        set: |b| b.set("/process/oomScoreAdj", json!(1000)),
        sees: &[("/oom", r#""1000""#)],
    },
];

/// The message is on the standard error that the payload would have had, in runc's words.
#[test]
fn error_of_execve_is_written_once() {
    let runtime = Runtime::new("refused-exec");
    let bundle = || Bundle::probe(&["sleep", "100"]).file("x", "#!/no/interpreter\n", 0o755);
    let out = runtime.run("c1", &bundle().args(&["/x"])).fails(255, &[]);
    assert_eq!((out.stderr.as_str(), out.stdout.as_str()), ("exec /x: no such file or directory\n", ""));
    runtime.assert_clean("run");
    runtime.start("c2", &bundle());
    let out = runtime.exec("c2", &["/x"]).fails(255, &[]);
    assert_eq!((out.stderr.as_str(), out.stdout.as_str()), ("exec /x: no such file or directory\n", ""));
    runtime.cmd(&["delete", "--force", "c2"]).ok();
    runtime.assert_clean("exec");
}

#[test]
fn bad_process_settings_are_refused() {
    refused("process-refused", REFUSED);
}

const REFUSED: &[Refusal] = &[
    Refusal {
        name: "a program that is nowhere in PATH",
        set: |b| b.args(&["nosuch"]),
        says: &[r#"exec: \"nosuch\": executable file not found in $PATH"#],
    },
    Refusal {
        name: "a program that does not exist",
        set: |b| b.args(&["/no/such"]),
        says: &[r#"/no/such"#, "no such file or directory"],
    },
    Refusal {
        name: "a program that may not be executed",
        set: |b| b.file("x", "x", 0o644).args(&["/x"]),
        says: &["/x", "permission denied"],
    },
    Refusal {
        name: "a directory as the program",
        set: |b| b.dir("x", 0o755).args(&["/x"]),
        says: &["/x", "is a directory"],
    },
    Refusal {
        name: "a program for another machine",
        set: |b| b.file("x", "\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0\x02\0\x28\0", 0o755).args(&["/x"]),
        says: &["/x", "exec format error"],
    },
    Refusal {
        name: "a script whose interpreter is missing",
        set: |b| b.file("x", "#!/no/interpreter\n", 0o755).args(&["/x"]),
        says: &["/x", "no such file or directory"],
    },
    Refusal { name: "no arguments", set: |b| b.set("/process/args", json!([])), says: &["args"] },
    Refusal { name: "no process", set: |b| b.unset("/process"), says: &["process"] },
    Refusal { name: "a relative working directory", set: |b| b.set("/process/cwd", json!("w")), says: &["wd"] },
    Refusal { name: "no working directory", set: |b| b.unset("/process/cwd"), says: &["wd"] },
    Refusal {
        name: "a working directory that is a file",
        set: |b| b.file("w", "", 0o644).set("/process/cwd", json!("/w")),
        says: &["/w", "not a directory"],
    },
    Refusal {
        name: "an rlimit that does not exist",
        set: |b| b.set("/process/rlimits", json!([{"type": "RLIMIT_FUEL", "soft": 1, "hard": 1}])),
        says: &["RLIMIT_FUEL"],
    },
    Refusal {
        name: "an rlimit whose soft value is above the hard one",
        set: |b| b.set("/process/rlimits", json!([{"type": "RLIMIT_CORE", "soft": 2, "hard": 1}])),
        says: &["limit"],
    },
];

#[test]
fn duplicate_rlimits_and_malformed_passwd_lines_are_not_taken() {
    if !skipped_on_runc(
        "stricter",
        "it takes the last of two rlimits, and lines of passwd that are no entries for entries of root",
    ) {
        refused("stricter-refused", &[TWICE]);
        all("stricter", &[PASSWD]);
    }
}

const TWICE: Refusal = Refusal {
    name: "an rlimit twice",
    set: |b| {
        let one = json!({"type": "RLIMIT_CORE", "soft": 1, "hard": 1});
        b.set("/process/rlimits", json!([one, one]))
    },
    says: &["RLIMIT_CORE"],
};

const PASSWD: Case = Case {
    name: "a broken passwd does no harm",
    set: |b| b.file("etc/passwd", "\n#x\nbad\nroot:x:zero:0::/a:/\n:::::\nroot:x:0:0::/b:/\n", 0o644),
    sees: &[("/env/HOME", r#""/b""#)],
};

#[test]
fn root_filesystem_is_read_only_when_configured() {
    let runtime = Runtime::new("root");
    for (readonly, errno) in [(true, libc::EROFS), (false, 0)] {
        let bundle = Bundle::probe(&["write", "/new", "x"]).set("/root/readonly", json!(readonly));
        let out = runtime.run("c1", &bundle).ok();
        assert_eq!(out.json()["write"]["/new"], errno, "readonly {readonly}");
        assert_eq!(bundle.rootfs().join("new").exists(), !readonly);
    }
}
