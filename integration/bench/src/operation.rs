//! The timed operations through containerd: a container's life, an exec, a kill, state and statistics.

use super::{
    cpu::nanos,
    tasks_api::{Any, CreateTask, Exec, Tasks},
};
use std::time::Instant;

/// A recorded container with a root filesystem that is ready to be mounted. It does not run yet.
#[derive(Debug, Clone)]
pub struct Prepared {
    /// The id.
    pub id: String,
    /// The Create request.
    pub create: CreateTask,
}

/// The times of the parts of a container's life (ns).
#[derive(Debug, Clone, Copy)]
pub struct Life {
    /// From the Create request to its answer.
    pub create: u64,
    /// From the Start request to its answer.
    pub start: u64,
    /// From the answer of Start to the answer of Wait.
    pub wait: u64,
    /// From the Delete request to its answer.
    pub delete: u64,
    /// The whole time.
    pub sum: u64,
}

/// Runs a container whose payload exits at once: Create, Wait (sent before Start, as clients do), Start, Delete.
pub async fn run(tasks: &Tasks, prepared: &Prepared) -> Life {
    let begin = Instant::now();
    create(tasks, prepared).await;
    let created = Instant::now();
    let exit = wait_ahead(tasks, &prepared.id, "");
    tasks.start(&prepared.id, "").await.unwrap_or_else(|e| panic!("start {}: {e}", prepared.id));
    let started = Instant::now();
    let status = exit.await.expect("a task that does not panic");
    assert_eq!(status, 0, "{} should have ended well", prepared.id);
    let exited = Instant::now();
    tasks.delete(&prepared.id).await.unwrap_or_else(|e| panic!("delete {}: {e}", prepared.id));
    let end = Instant::now();
    Life {
        create: nanos(created - begin),
        start: nanos(started - created),
        wait: nanos(exited - started),
        delete: nanos(end - exited),
        sum: nanos(end - begin),
    }
}

/// Creates and starts a container whose payload stays.
pub async fn launch(tasks: &Tasks, prepared: &Prepared) {
    create(tasks, prepared).await;
    tasks.start(&prepared.id, "").await.unwrap_or_else(|e| panic!("start {}: {e}", prepared.id));
}

/// Runs `process` in a container to its end: Exec, Wait, Start, DeleteProcess. Returns the time (ns).
pub async fn exec(tasks: &Tasks, id: &str, name: &str, process: &Any) -> u64 {
    let begin = Instant::now();
    let request = Exec { container_id: id.into(), spec: Some(process.clone()), exec_id: name.into() };
    tasks.exec(&request).await.unwrap_or_else(|e| panic!("exec {name} in {id}: {e}"));
    let exit = wait_ahead(tasks, id, name);
    tasks.start(id, name).await.unwrap_or_else(|e| panic!("start exec {name} in {id}: {e}"));
    let status = exit.await.expect("a task that does not panic");
    assert_eq!(status, 0, "exec {name} in {id} should have ended well");
    tasks.delete_exec(id, name).await.unwrap_or_else(|e| panic!("delete exec {name} in {id}: {e}"));
    nanos(begin.elapsed())
}

/// Kills a running container and deletes its task. Returns the times until Kill answered and until Wait answered (ns).
pub async fn kill(tasks: &Tasks, id: &str) -> (u64, u64) {
    let exit = wait_ahead(tasks, id, "");
    // The Wait is sent before the clock starts.
    tokio::task::yield_now().await;
    let begin = Instant::now();
    tasks.kill(id, 9).await.unwrap_or_else(|e| panic!("kill {id}: {e}"));
    let answered = nanos(begin.elapsed());
    exit.await.expect("a task that does not panic");
    let exited = nanos(begin.elapsed());
    tasks.delete(id).await.unwrap_or_else(|e| panic!("delete {id}: {e}"));
    (answered, exited)
}

/// Asks for a container's statistics. Returns the time (ns).
pub async fn stats(tasks: &Tasks, id: &str) -> u64 {
    let begin = Instant::now();
    let many = tasks.metrics(id).await.unwrap_or_else(|e| panic!("metrics of {id}: {e}"));
    assert_eq!(many, 1, "metrics of {id} alone");
    nanos(begin.elapsed())
}

/// Asks for a container's state. Returns the time (ns).
pub async fn state(tasks: &Tasks, id: &str) -> u64 {
    let begin = Instant::now();
    tasks.state(id).await.unwrap_or_else(|e| panic!("state of {id}: {e}"));
    nanos(begin.elapsed())
}

async fn create(tasks: &Tasks, prepared: &Prepared) {
    tasks.create(&prepared.create).await.unwrap_or_else(|e| panic!("create {}: {e}", prepared.id));
}

fn wait_ahead(tasks: &Tasks, id: &str, exec: &str) -> tokio::task::JoinHandle<u32> {
    let (tasks, id, exec) = (tasks.clone(), id.to_owned(), exec.to_owned());
    tokio::spawn(async move { tasks.wait(&id, &exec).await.unwrap_or_else(|e| panic!("wait for {id} {exec}: {e}")) })
}
