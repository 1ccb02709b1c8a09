//! A client's stdio: named fifos, opened as containerd opens them, and read on threads.

use crate::wait::{LONG, until_true};
use rustix::{
    event::{PollFd, PollFlags, poll},
    fs::{CWD, FileType, Mode, mknodat},
};
use std::{
    fs::{File, OpenOptions},
    io::{Read, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
    thread::JoinHandle,
};

/// The fifos of one process.
pub struct Stdio {
    /// The path for the request. It is empty if the process has no stdin.
    pub stdin: String,
    /// The path for the request.
    pub stdout: String,
    /// The path for the request. It is empty on a terminal.
    pub stderr: String,
    /// Whether the process has a terminal.
    pub terminal: bool,
    /// The standard output so far.
    pub out: Stream,
    /// The standard error so far.
    pub err: Option<Stream>,
    writer: Option<File>,
}

/// One output, read to its end by a thread.
pub struct Stream {
    text: Arc<Mutex<Vec<u8>>>,
    reader: Option<JoinHandle<()>>,
}

impl Stdio {
    /// Makes the fifos of stdout and stderr.
    pub fn outputs(dir: &Path, name: &str) -> Self {
        let (stdout, stderr) = (fifo(dir, &format!("{name}-stdout")), fifo(dir, &format!("{name}-stderr")));
        Self {
            stdin: String::new(),
            out: Stream::read(&stdout),
            err: Some(Stream::read(&stderr)),
            stdout: text(&stdout),
            stderr: text(&stderr),
            terminal: false,
            writer: None,
        }
    }

    /// Makes the fifos of stdin, stdout and stderr.
    pub fn all(dir: &Path, name: &str) -> Self {
        Self { stdin: text(&fifo(dir, &format!("{name}-stdin"))), ..Self::outputs(dir, name) }
    }

    /// Makes the fifos of a terminal.
    pub fn terminal(dir: &Path, name: &str) -> Self {
        let stdout = fifo(dir, &format!("{name}-stdout"));
        Self {
            stdin: text(&fifo(dir, &format!("{name}-stdin"))),
            out: Stream::read(&stdout),
            err: None,
            stdout: text(&stdout),
            stderr: String::new(),
            terminal: true,
            writer: None,
        }
    }

    /// Writes to stdin. The shim must have the fifo open.
    pub fn write(&mut self, text: &str) {
        let path = self.stdin.clone();
        let writer = self.writer.get_or_insert_with(|| OpenOptions::new().write(true).open(path).unwrap());
        writer.write_all(text.as_bytes()).unwrap();
    }

    /// Closes the client's end of stdin.
    pub fn hang_up(&mut self) {
        self.writer = None;
    }
}

impl Stream {
    /// Reads the fifo on a thread until its last writer has closed it.
    pub fn read(path: &Path) -> Self {
        let mut file = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(path).unwrap();
        let text = Arc::new(Mutex::new(Vec::new()));
        let reader = std::thread::spawn({
            let text = text.clone();
            move || {
                let mut buffer = [0; 65536];
                loop {
                    // poll(2) waits for the first writer; a read before that returns end of file.
                    poll(&mut [PollFd::new(&file, PollFlags::IN)], None).unwrap();
                    match file.read(&mut buffer) {
                        Ok(0) => return,
                        Ok(n) => text.lock().unwrap().extend_from_slice(&buffer[..n]),
                        Err(e) if e.kind() == std::io::ErrorKind::WouldBlock => {}
                        Err(e) => panic!("read a fifo: {e}"),
                    }
                }
            }
        });
        Self { text, reader: Some(reader) }
    }

    /// Returns the text so far.
    pub fn so_far(&self) -> String {
        String::from_utf8_lossy(&self.text.lock().unwrap()).into_owned()
    }

    /// Returns the number of bytes so far.
    pub fn len(&self) -> usize {
        self.text.lock().unwrap().len()
    }

    /// Returns whether no byte has come.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Waits until the text has `word`.
    #[track_caller]
    pub fn until(&self, word: &str) {
        until_true(&format!("{word:?} in {:?}", self.so_far()), LONG, || self.so_far().contains(word));
    }

    /// Returns whether the stream has ended.
    pub fn ended(&self) -> bool {
        self.reader.as_ref().is_none_or(JoinHandle::is_finished)
    }

    /// Waits for the end and returns the whole text.
    #[track_caller]
    pub fn end(&mut self) -> String {
        until_true("the end of a stream", LONG, || self.ended());
        if let Some(reader) = self.reader.take() {
            reader.join().unwrap();
        }
        self.so_far()
    }
}

/// Makes a fifo.
pub fn fifo(dir: &Path, name: &str) -> PathBuf {
    let path = dir.join(name);
    mknodat(CWD, &path, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
    path
}

fn text(path: &Path) -> String {
    path.to_str().unwrap().to_owned()
}
