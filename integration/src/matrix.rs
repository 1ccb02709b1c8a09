//! Runs one test under every containerd and with both forms of the runtime's name.

use crate::containerd::{Containerd, Form, Runtime, Version};

/// Makes tests of the named functions, each `fn(&Containerd)`: under both generations of containerd, with the runtime
/// named by its path (`by_path`) and by its type (`by_name`). A function must leave the machine as it was.
#[macro_export]
macro_rules! matrix {
    ($($test:ident),+ $(,)?) => {
        $crate::by_path!($($test),+);
        mod containerd_2_by_name { $(#[test] fn $test() {
            $crate::matrix::run($crate::containerd::Version::V2_3, $crate::containerd::Form::ByName, super::$test);
        })+ }
        mod containerd_1_by_name { $(#[test] fn $test() {
            $crate::matrix::run($crate::containerd::Version::V1_6, $crate::containerd::Form::ByName, super::$test);
        })+ }
    };
}

/// Like [`matrix!`](crate::matrix!) for tests in which the form of the runtime's name makes no difference.
#[macro_export]
macro_rules! by_path {
    ($($test:ident),+ $(,)?) => {
        mod containerd_2_by_path { $(#[test] fn $test() {
            $crate::matrix::run($crate::containerd::Version::V2_3, $crate::containerd::Form::ByPath, super::$test);
        })+ }
        mod containerd_1_by_path { $(#[test] fn $test() {
            $crate::matrix::run($crate::containerd::Version::V1_6, $crate::containerd::Form::ByPath, super::$test);
        })+ }
    };
}

/// Makes tests of the named functions under containerd 2 with pods that have no pause container. With `RUNTIME=runc` they
/// have one.
#[macro_export]
macro_rules! without_pause {
    ($($test:ident),+ $(,)?) => {
        mod containerd_2_without_pause { $(#[test] fn $test() {
            $crate::matrix::run($crate::containerd::Version::V2_3, $crate::containerd::Form::WithoutPause, super::$test);
        })+ }
    };
}

/// Runs `test` on a containerd of its own and checks that it leaves nothing behind.
pub fn run(version: Version, form: Form, test: fn(&Containerd)) {
    if form == Form::ByName && Runtime::under_test(form) == Runtime::Runc {
        eprintln!("runc's shim has one name: nothing to test by name");
        return;
    }
    let containerd = Containerd::start(version, form);
    containerd.remember();
    test(&containerd);
    containerd.assert_clean();
}
