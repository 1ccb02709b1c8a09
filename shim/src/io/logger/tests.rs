use std::path::PathBuf;

use super::*;
use crate::testing::{Scratch, runtime};

/// Runs `script` in /bin/sh. A script file that was just written may still be open for writing in a child that another
/// test has just forked, and execve(2) fails with ETXTBSY then.
fn program(script: &str) -> Program {
    let args = ["-c", script, "logger", "key", "value"].map(Into::into);
    Program { path: PathBuf::from("/bin/sh"), args: args.to_vec(), must_say_ready: false }
}

/// As [`program`], but it must report that it is ready (`binary-v2`).
fn program_v2(script: &str) -> Program {
    Program { must_say_ready: true, ..program(script) }
}

#[test]
fn a_logging_program_gets_pipes_arguments_and_two_variables() {
    let dir = Scratch::new();
    let out = dir.path().join("out");
    let script = format!(
        "printf r >&5; exec 5>&-; {{ echo \"$1 $2 $CONTAINER_ID $CONTAINER_NAMESPACE ${{HOME-unset}}\"; cat <&3; cat <&4; }} > {}",
        out.display()
    );
    let program = program_v2(&script);
    runtime().block_on(async {
        let pool = Pool::default();
        let (logger, ends) = Logger::start(&program, "c1", "ns", &pool).await.unwrap();
        rustix::io::write(&ends.stdout, b"from stdout\n").unwrap();
        rustix::io::write(&ends.stderr, b"from stderr\n").unwrap();
        drop(ends);
        let mut ended = logger.ended.clone();
        timeout(SIGTERM_TIMEOUT, ended.wait_for(|&e| e)).await.unwrap().unwrap();
    });
    assert_eq!(std::fs::read_to_string(out).unwrap(), "key value c1 ns unset\nfrom stdout\nfrom stderr\n");
}

#[test]
fn a_logging_program_that_exits_unready_fails_in_v2_only() {
    runtime().block_on(async {
        let pool = Pool::default();
        assert!(Logger::start(&program("exit 3"), "c", "n", &pool).await.is_ok());
        let error = Logger::start(&program_v2("exit 3"), "c", "n", &pool).await.unwrap_err();
        assert!(error.to_string().contains("before it was ready"), "{error}");
    });
}

#[test]
fn a_missing_logging_program_is_named() {
    let program = Program { path: PathBuf::from("/nowhere/log"), args: vec![], must_say_ready: false };
    let error = runtime().block_on(async { Logger::start(&program, "c", "n", &Pool::default()).await.unwrap_err() });
    assert_eq!(error.to_string(), "start logging program /nowhere/log: no such file or directory");
}

#[test]
fn output_is_still_read_after_the_logging_program_dies() {
    runtime().block_on(async {
        let (logger, ends) = Logger::start(&program("exit 0"), "c", "n", &Pool::default()).await.unwrap();
        let mut ended = logger.ended.clone();
        timeout(SIGTERM_TIMEOUT, ended.wait_for(|&e| e)).await.unwrap().unwrap();
        let writer = tokio::task::spawn_blocking(move || {
            for _ in 0..100 {
                rustix::io::write(&ends.stdout, &[0; 10_000]).unwrap();
            }
        });
        timeout(SIGTERM_TIMEOUT, writer).await.unwrap().unwrap();
    });
}

#[test]
fn stop_ends_the_logging_program() {
    runtime().block_on(async {
        let (logger, _ends) =
            Logger::start(&program("exec 5>&-; exec sleep 60"), "c", "n", &Pool::default()).await.unwrap();
        logger.stop().await;
        assert!(*logger.ended.borrow());
    });
}
