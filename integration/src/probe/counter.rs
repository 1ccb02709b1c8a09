//! The action `go-on`, a process with much state: a checkpoint has to keep all of it.

use super::sys;
use std::{
    fs::File,
    io::{self, Read, Write, pipe},
    os::unix::{
        fs::FileExt,
        net::{UnixListener, UnixStream},
    },
    path::Path,
    sync::atomic::{AtomicU64, Ordering},
    thread,
    time::{Duration, SystemTime},
};

/// `go-on DIR`: counts for ever. The file `count` in DIR gets the time of birth and the number through a descriptor that
/// stays open, and the file `map` gets the number through a pipe, a thread and a shared mapping. The listening socket
/// `socket` tells the number. It is no TCP socket: CRIU 4.1 reads SO_PASSCRED of those, which kernels from 6.16 on refuse.
pub fn go_on(dir: &str) -> io::Result<()> {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let dir = Path::new(dir);
    let birth = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_nanos();
    let listener = UnixListener::bind(dir.join("socket"))?;
    thread::spawn(move || {
        for mut client in listener.incoming().flatten() {
            let _ = client.write_all(COUNT.load(Ordering::Relaxed).to_string().as_bytes());
        }
    });
    let map =
        sys::map_shared(&File::options().read(true).write(true).create(true).truncate(true).open(dir.join("map"))?)?;
    let (mut reader, mut writer) = pipe()?;
    thread::spawn(move || {
        let mut number = [0; 8];
        while reader.read_exact(&mut number).is_ok() {
            map.store(u64::from_ne_bytes(number), Ordering::Relaxed);
        }
    });
    let file = File::create(dir.join("count"))?;
    loop {
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        writer.write_all(&number.to_ne_bytes())?;
        file.write_all_at(format!("{birth} {number:020}\n").as_bytes(), 0)?;
        thread::sleep(Duration::from_millis(5));
    }
}

/// `ask SOCKET`: prints the number that the socket of `go-on` tells.
pub fn ask(socket: &str) -> io::Result<String> {
    let mut text = String::new();
    UnixStream::connect(socket)?.read_to_string(&mut text)?;
    Ok(text)
}
