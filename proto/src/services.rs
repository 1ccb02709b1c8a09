//! The task service under both of its names, and how a call fails on the wire.

use std::{collections::HashMap, sync::Arc};

use crate::{
    task::{Task, create_task},
    ttrpc,
};

/// The service containerd 1.6 and 1.7 call, and newer ones when the shim's reply to `start` says version 2.
pub const TASK_V2: &str = "containerd.task.v2.Task";
/// The service containerd 2.0 and newer call when the reply says version 3.
pub const TASK_V3: &str = "containerd.task.v3.Task";

/// One service object under both names. The messages are the same to the byte, and the dispatch table's methods are
/// keyed by their bare names, so a table built for version 3 serves version 2 as well.
pub fn task_services(task: Arc<dyn Task + Send + Sync>) -> HashMap<String, ttrpc::asynchronous::Service> {
    let mut services = HashMap::new();
    for name in [TASK_V2, TASK_V3] {
        services.extend(create_task(task.clone()).into_values().map(|service| (name.to_owned(), service)));
    }
    services
}

/// A call's error with its code. Anything but an `RpcStatus` would reach the client as UNKNOWN with Rust's debug text.
pub fn failure(code: ttrpc::Code, message: impl Into<String>) -> ttrpc::Error {
    ttrpc::Error::RpcStatus(ttrpc::get_status(code, message.into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Nothing;
    impl Task for Nothing {}

    #[test]
    fn both_names_have_all_seventeen_calls() {
        let services = task_services(Arc::new(Nothing));
        let mut names: Vec<_> = services.keys().map(String::as_str).collect();
        names.sort_unstable();
        assert_eq!(names, [TASK_V2, TASK_V3]);
        for service in services.values() {
            assert_eq!(service.methods.len(), 17);
            assert!(service.methods.contains_key("ResizePty"));
            assert!(service.methods.contains_key("CloseIO"));
        }
    }
}
