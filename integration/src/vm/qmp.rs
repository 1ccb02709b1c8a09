//! qemu's monitor: commands and answers in JSON, one line each (QEMU Machine Protocol).

use super::{Result, fault};
use serde_json::{Value, json};
use std::{
    io::{BufRead, BufReader, Write},
    os::unix::net::UnixStream,
    time::{Duration, Instant},
};

/// The bound of an answer. The monitor does not answer while qemu loads a machine.
const ANSWER: Duration = Duration::from_secs(120);

/// A monitor that has sent its greeting.
pub struct Qmp {
    to: UnixStream,
    from: BufReader<UnixStream>,
}

impl Qmp {
    /// Reads qemu's greeting.
    ///
    /// # Errors
    /// qemu has ended without it.
    pub fn greet(stream: UnixStream) -> Result<Self> {
        stream.set_read_timeout(Some(ANSWER)).map_err(fault("qemu's monitor"))?;
        let from = BufReader::new(stream.try_clone().map_err(fault("qemu's monitor"))?);
        let mut this = Self { to: stream, from };
        this.line()?;
        this.call("qmp_capabilities", &json!({}))?;
        Ok(this)
    }

    /// Runs a command and returns its result.
    ///
    /// # Errors
    /// The error of qemu, or the end of qemu.
    pub fn call(&mut self, command: &str, arguments: &Value) -> Result<Value> {
        let line = format!("{}\n", json!({"execute": command, "arguments": arguments}));
        self.to.write_all(line.as_bytes()).map_err(fault(&format!("ask qemu to {command}")))?;
        loop {
            let answer = self.line()?;
            if let Some(value) = answer.get("return") {
                return Ok(value.clone());
            }
            if let Some(error) = answer.get("error") {
                return Err(format!("qemu: {command}: {}", error["desc"].as_str().unwrap_or_default()));
            }
            // Every other message is an event.
        }
    }

    /// Writes the running machine to a file. The machine runs until the last page is written and then stops.
    ///
    /// # Errors
    /// The error of qemu, or the end of the bound.
    pub fn save(&mut self, file: &str, limit: Duration) -> Result<()> {
        // No process uses the machine now, so the bandwidth needs no limit.
        self.call("migrate-set-parameters", &json!({"max-bandwidth": 0}))?;
        self.call("migrate", &json!({"uri": format!("exec:cat > '{file}'")}))?;
        let end = Instant::now() + limit;
        loop {
            let info = self.call("query-migrate", &json!({}))?;
            match info["status"].as_str().unwrap_or_default() {
                "completed" => return Ok(()),
                "failed" | "cancelled" => return Err(format!("qemu could not save the machine: {info}")),
                _ if Instant::now() > end => return Err(format!("saving took longer than {limit:?}: {info}")),
                _ => std::thread::sleep(Duration::from_millis(50)),
            }
        }
    }

    /// Returns whether the machine runs: it is neither being loaded nor stopped.
    ///
    /// # Errors
    /// The end of qemu.
    pub fn runs(&mut self) -> Result<bool> {
        Ok(self.call("query-status", &json!({}))?["running"] == true)
    }

    fn line(&mut self) -> Result<Value> {
        let mut line = String::new();
        match self.from.read_line(&mut line) {
            Ok(0) => Err("qemu has ended".to_owned()),
            Ok(_) => serde_json::from_str(&line).map_err(|e| format!("qemu's monitor said {line:?}: {e}")),
            Err(e) => Err(format!("qemu's monitor does not answer: {e}")),
        }
    }
}
