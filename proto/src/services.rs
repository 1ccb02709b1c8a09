//! The task service under both of its names, and the errors of its calls.

use std::{collections::HashMap, sync::Arc};

use crate::{
    task::{Task, create_task},
    ttrpc,
};

/// The name that containerd 1.6 and 1.7 call, and newer ones if the reply of `start` says version 2.
pub const TASK_V2: &str = "containerd.task.v2.Task";
/// The name that containerd 2.0 and newer call if the reply says version 3.
pub const TASK_V3: &str = "containerd.task.v3.Task";

/// Registers one service object under both names. The messages are identical, and the dispatch table is keyed by bare
/// method names, so the table of version 3 serves version 2 as well.
pub fn task_services(task: Arc<dyn Task + Send + Sync>) -> HashMap<String, ttrpc::asynchronous::Service> {
    let mut services = HashMap::new();
    for name in [TASK_V2, TASK_V3] {
        services.extend(create_task(task.clone()).into_values().map(|service| (name.to_owned(), service)));
    }
    services
}

/// An error with its code. The ttrpc crate sends any other error as UNKNOWN, with Rust's debug text as message.
pub fn failure(code: ttrpc::Code, message: impl Into<String>) -> ttrpc::Error {
    ttrpc::Error::RpcStatus(ttrpc::get_status(code, message.into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Nothing;
    impl Task for Nothing {}

    #[test]
    fn both_service_names_have_all_seventeen_methods() {
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
