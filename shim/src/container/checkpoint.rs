//! Checkpoint, with CRIU: the container is written to a directory, which the client packs.

use std::path::{Path, PathBuf};

use berth_proto::{any, events::TaskCheckpointed, runc, task::CheckpointTaskRequest};
use berth_runtime::{
    Error, Result,
    checkpoint::{self, CgroupsMode, CommonOptions, Options, Then},
};

use super::Container;

/// CRIU's own directory in the bundle, without a path in the options; and its log, which a failure leaves there. The names
/// are those of runc's shim.
const WORK: &str = "criu-work";
const LOG: &str = "dump.log";
const KEPT_LOG: &str = "criu-dump.log";

impl Container {
    /// Answers Checkpoint. Without options the container runs on.
    ///
    /// # Errors
    /// The container is neither running nor paused, belongs to a pod without a pause container, or CRIU fails; the container
    /// runs on then.
    pub async fn checkpoint(&self, request: CheckpointTaskRequest) -> Result<()> {
        self.check_has_own_namespaces()?;
        let options = decode(&request)?;
        let images = [&request.path, &options.image_path].into_iter().find(|path| !path.is_empty());
        let images = images.map(PathBuf::from).filter(|path| path.is_absolute());
        let images = images.ok_or_else(|| Error::invalid(format!("path {:?} is not absolute", request.path)))?;
        let _op = self.op_lock.write().await;
        self.state().checkpointable()?;
        let bundle = self.bundle.clone();
        self.run_operation(move |handle| dump(handle, &bundle, &images, &options)).await?;
        let event = TaskCheckpointed { container_id: self.id.clone(), checkpoint: request.path, ..Default::default() };
        self.transition(|_| Ok(vec![event.into()]))
    }

    /// A pod without a pause container changes the config.json of its containers in memory, and CRIU is told what the file
    /// has: the pod's namespaces would pass for the container's own.
    ///
    /// # Errors
    /// [`berth_runtime::Kind::Unsupported`] for a container of such a pod.
    pub(super) fn check_has_own_namespaces(&self) -> Result<()> {
        match self.context.pod.get() {
            None => Ok(()),
            Some(_) => {
                let text = "checkpoint and restore of a container whose pod has no pause container";
                Err(Error::unsupported(text))
            }
        }
    }
}

/// Returns the options of runc's shim; other types of options have nothing about a checkpoint.
fn decode(request: &CheckpointTaskRequest) -> Result<runc::CheckpointOptions> {
    let unpacked = request.options.as_ref().map(any::unpack::<runc::CheckpointOptions>).transpose();
    let unpacked = unpacked.map_err(|e| Error::invalid(e.to_string()).context("options"))?;
    Ok(unpacked.flatten().unwrap_or_default())
}

fn dump(
    handle: &berth_runtime::state::Container,
    bundle: &Path,
    images: &Path,
    options: &runc::CheckpointOptions,
) -> Result<()> {
    let own = bundle.join(WORK);
    let work = if options.work_path.is_empty() { own.as_path() } else { Path::new(&options.work_path) };
    checkpoint::check_empty_namespaces(&options.empty_namespaces)?;
    let mode = Some(options.cgroups_mode.as_str()).filter(|mode| !mode.is_empty());
    let done = checkpoint::checkpoint(
        handle,
        Options {
            images,
            common: CommonOptions {
                work: Some(work),
                tcp_established: options.open_tcp,
                ext_unix_sockets: options.external_unix_sockets,
                shell_job: options.terminal,
                file_locks: options.file_locks,
                cgroups: mode.map(CgroupsMode::parse).transpose()?,
                ..CommonOptions::default()
            },
            parent: None,
            then: if options.exit { Then::Stop } else { Then::Run },
            tcp_skip_in_flight: false,
            link_remap: false,
            page_server: None,
            status: None,
        },
    );
    let log = bundle.join(KEPT_LOG);
    let kept = done.is_err() && work == own && std::fs::rename(own.join(LOG), &log).is_ok();
    if work == own {
        let _ = std::fs::remove_dir_all(&own);
    }
    done.map_err(|e| if kept { e.context(format!("checkpoint failed, path= {}", log.display())) } else { e })
}
