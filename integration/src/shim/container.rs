//! The calls of the task service. Each method returns the answer of the shim, or its error.

use super::{CALL, Failure, Shim, stdio::Stdio};
use crate::bundle::Bundle;
use berth_proto::{
    any,
    task::{
        CloseIORequest, CreateTaskRequest, DeleteRequest, DeleteResponse, ExecProcessRequest, KillRequest,
        PauseRequest, PidsRequest, ResizePtyRequest, ResumeRequest, StartRequest, StateRequest, StateResponse,
        StatsRequest, UpdateTaskRequest, WaitRequest, WaitResponse,
    },
    wkt::Any,
};
use serde_json::{Value, json};

impl Shim {
    /// Returns the Create request of a bundle, and writes the bundle's config.json.
    pub fn request(&self, id: &str, bundle: &Bundle) -> CreateTaskRequest {
        bundle.save(&self.cgroup(id));
        self.keep(bundle);
        CreateTaskRequest {
            id: id.to_owned(),
            bundle: bundle.path().to_str().unwrap().to_owned(),
            options: Some(self.options()).into(),
            ..Default::default()
        }
    }

    /// Calls Create without stdio.
    pub fn create(&self, id: &str, bundle: &Bundle) -> Result<u32, Failure> {
        self.create_as(self.request(id, bundle))
    }

    /// Calls Create with a client's stdio.
    pub fn create_with(&self, id: &str, bundle: &Bundle, stdio: &Stdio) -> Result<u32, Failure> {
        self.create_as(CreateTaskRequest {
            stdin: stdio.stdin.clone(),
            stdout: stdio.stdout.clone(),
            stderr: stdio.stderr.clone(),
            terminal: stdio.terminal,
            ..self.request(id, bundle)
        })
    }

    /// Calls Create with this request.
    pub fn create_as(&self, request: CreateTaskRequest) -> Result<u32, Failure> {
        self.call(CALL, async |c, ctx| c.create(ctx, &request).await).map(|r| r.pid)
    }

    /// Calls Create and Start, which must succeed, and returns init's pid.
    #[track_caller]
    pub fn run(&self, id: &str, bundle: &Bundle) -> u32 {
        self.create(id, bundle).unwrap();
        self.start_process(id, "").unwrap()
    }

    /// Calls Create and Start with a client's stdio. Both must succeed.
    #[track_caller]
    pub fn run_with(&self, id: &str, bundle: &Bundle, stdio: &Stdio) -> u32 {
        self.create_with(id, bundle, stdio).unwrap();
        self.start_process(id, "").unwrap()
    }

    /// Calls Start for init (empty `exec`) or for an exec.
    pub fn start_process(&self, id: &str, exec: &str) -> Result<u32, Failure> {
        let request = StartRequest { id: id.into(), exec_id: exec.into(), ..Default::default() };
        self.call(CALL, async |c, ctx| c.start(ctx, &request).await).map(|r| r.pid)
    }

    /// Calls Exec for a process with these args and otherwise the default bundle's process.
    pub fn exec(&self, id: &str, exec: &str, args: &[&str], stdio: Option<&Stdio>) -> Result<(), Failure> {
        self.exec_as(exec_request(id, exec, &process(args), stdio))
    }

    /// Calls Exec with this request.
    pub fn exec_as(&self, request: ExecProcessRequest) -> Result<(), Failure> {
        self.call(CALL, async |c, ctx| c.exec(ctx, &request).await).map(drop)
    }

    /// Calls Exec and Start, which must succeed, and returns the pid.
    #[track_caller]
    pub fn run_exec(&self, id: &str, exec: &str, args: &[&str], stdio: Option<&Stdio>) -> u32 {
        self.exec(id, exec, args, stdio).unwrap();
        self.start_process(id, exec).unwrap()
    }

    /// Calls Wait.
    pub fn wait(&self, id: &str, exec: &str) -> Result<WaitResponse, Failure> {
        let request = WaitRequest { id: id.into(), exec_id: exec.into(), ..Default::default() };
        self.call(CALL, async |c, ctx| c.wait(ctx, &request).await)
    }

    /// Calls Wait, which must succeed, and returns the exit status.
    #[track_caller]
    pub fn status(&self, id: &str, exec: &str) -> u32 {
        self.wait(id, exec).unwrap().exit_status
    }

    /// Calls Delete.
    pub fn delete(&self, id: &str, exec: &str) -> Result<DeleteResponse, Failure> {
        let request = DeleteRequest { id: id.into(), exec_id: exec.into(), ..Default::default() };
        self.call(CALL, async |c, ctx| c.delete(ctx, &request).await)
    }

    /// Calls Kill.
    pub fn kill(&self, id: &str, exec: &str, signal: u32, all: bool) -> Result<(), Failure> {
        let request = KillRequest { id: id.into(), exec_id: exec.into(), signal, all, ..Default::default() };
        self.call(CALL, async |c, ctx| c.kill(ctx, &request).await).map(drop)
    }

    /// Kills init, waits for it and deletes the container. Every call must succeed.
    #[track_caller]
    pub fn end(&self, id: &str) -> DeleteResponse {
        self.kill(id, "", 9, false).unwrap();
        self.wait(id, "").unwrap();
        self.delete(id, "").unwrap()
    }

    /// Calls State.
    pub fn state(&self, id: &str, exec: &str) -> Result<StateResponse, Failure> {
        let request = StateRequest { id: id.into(), exec_id: exec.into(), ..Default::default() };
        self.call(CALL, async |c, ctx| c.state(ctx, &request).await)
    }

    /// Calls State, which must succeed, and returns the status: `CREATED`, `RUNNING`, …
    #[track_caller]
    pub fn phase(&self, id: &str, exec: &str) -> String {
        format!("{:?}", self.state(id, exec).unwrap().status.unwrap())
    }

    /// Calls Pids.
    pub fn pids(&self, id: &str) -> Result<Vec<(u32, Option<Any>)>, Failure> {
        let request = PidsRequest { id: id.into(), ..Default::default() };
        let answer = self.call(CALL, async |c, ctx| c.pids(ctx, &request).await)?;
        Ok(answer.processes.into_iter().map(|p| (p.pid, p.info.into_option())).collect())
    }

    /// Calls Pause.
    pub fn pause(&self, id: &str) -> Result<(), Failure> {
        let request = PauseRequest { id: id.into(), ..Default::default() };
        self.call(CALL, async |c, ctx| c.pause(ctx, &request).await).map(drop)
    }

    /// Calls Resume.
    pub fn resume(&self, id: &str) -> Result<(), Failure> {
        let request = ResumeRequest { id: id.into(), ..Default::default() };
        self.call(CALL, async |c, ctx| c.resume(ctx, &request).await).map(drop)
    }

    /// Calls Update with `linux.resources` as JSON.
    pub fn update(&self, id: &str, resources: &str) -> Result<(), Failure> {
        let resources = Some(any::json(any::OCI_RESOURCES, resources.into())).into();
        let request = UpdateTaskRequest { id: id.into(), resources, ..Default::default() };
        self.call(CALL, async |c, ctx| c.update(ctx, &request).await).map(drop)
    }

    /// Calls Stats.
    pub fn stats(&self, id: &str) -> Result<Any, Failure> {
        let request = StatsRequest { id: id.into(), ..Default::default() };
        self.call(CALL, async |c, ctx| c.stats(ctx, &request).await).map(|r| r.stats.unwrap())
    }

    /// Calls CloseIO for stdin.
    pub fn close_stdin(&self, id: &str, exec: &str) -> Result<(), Failure> {
        let request = CloseIORequest { id: id.into(), exec_id: exec.into(), stdin: true, ..Default::default() };
        self.call(CALL, async |c, ctx| c.close_io(ctx, &request).await).map(drop)
    }

    /// Calls ResizePty.
    pub fn resize(&self, id: &str, exec: &str, width: u32, height: u32) -> Result<(), Failure> {
        let request = ResizePtyRequest { id: id.into(), exec_id: exec.into(), width, height, ..Default::default() };
        self.call(CALL, async |c, ctx| c.resize_pty(ctx, &request).await).map(drop)
    }
}

/// Returns the `process` object of an exec.
pub fn process(args: &[&str]) -> Value {
    let mut process = crate::bundle::default_config()["process"].clone();
    process["args"] = json!(args);
    process
}

/// Returns an Exec request.
pub fn exec_request(id: &str, exec: &str, process: &Value, stdio: Option<&Stdio>) -> ExecProcessRequest {
    let spec = any::json(any::OCI_PROCESS, serde_json::to_vec(process).unwrap());
    let mut request =
        ExecProcessRequest { id: id.into(), exec_id: exec.into(), spec: Some(spec).into(), ..Default::default() };
    if let Some(stdio) = stdio {
        request.stdin = stdio.stdin.clone();
        request.stdout = stdio.stdout.clone();
        request.stderr = stdio.stderr.clone();
        request.terminal = stdio.terminal;
    }
    request
}
