use super::*;

fn refusal(attachment: Attachment, terminal: bool, socket: Option<&str>) -> String {
    let request = Request { program: "runc", terminal, attachment, console_socket: socket.map(Path::new) };
    HostStdio::prepare(&request).err().unwrap().to_string()
}

#[test]
fn contradictory_stdio_flags_are_refused_as_by_runc() {
    let lacking = "cannot allocate tty if runc will detach without setting console socket";
    let useless = "cannot use console socket if runc will not detach or allocate tty";
    assert_eq!(refusal(Attachment::Detached, true, None), lacking);
    assert_eq!(refusal(Attachment::Detached, false, Some("/x")), useless);
    assert_eq!(refusal(Attachment::Foreground, true, Some("/x")), useless);
    assert_eq!(refusal(Attachment::Foreground, false, Some("/x")), useless);
}

#[test]
fn two_streams_into_one_file_keep_all_bytes() {
    let path = std::env::temp_dir().join(format!("berth-stdio-{}", std::process::id()));
    let file = File::create(&path).unwrap();
    let (stdout, mut writer) = pipe().unwrap();
    let (stderr, silent_writer) = pipe().unwrap();
    let (to, to_errors) = (file.try_clone().unwrap(), file.try_clone().unwrap());
    let copies = [
        spawn(move || proxy_stdio("stdout", stdout, to)).unwrap(),
        spawn(move || proxy_stdio("stderr", stderr, to_errors)).unwrap(),
    ];
    std::thread::sleep(std::time::Duration::from_millis(50));
    writer.write_all(b"early ").unwrap();
    std::thread::sleep(std::time::Duration::from_millis(50));
    drop((writer, silent_writer));
    copies.into_iter().for_each(|copy| copy.join().unwrap());
    (&file).write_all(b"next").unwrap();
    let text = std::fs::read_to_string(&path).unwrap();
    std::fs::remove_file(&path).unwrap();
    assert_eq!(text, "early next");
}

#[test]
fn terminal_output_is_copied_to_its_last_byte() {
    let pty = pty();
    let (end, end_writer) = pipe().unwrap();
    let (mut copied, to) = pipe().unwrap();
    let (mut process, master) = pty;
    process.write_all(b"last words").unwrap();
    drop(end_writer);
    // The terminal stays open, as it does with a process in the background.
    proxy_terminal(master, &end, File::from(OwnedFd::from(to)));
    let mut text = String::new();
    copied.read_to_string(&mut text).unwrap();
    assert_eq!(text, "last words");
}

/// A new terminal: the end of the process, and the master.
fn pty() -> (File, File) {
    use rustix::pty::{OpenptFlags, grantpt, ioctl_tiocgptpeer, openpt, unlockpt};
    let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC).unwrap();
    grantpt(&master).unwrap();
    unlockpt(&master).unwrap();
    let process = ioctl_tiocgptpeer(&master, OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC).unwrap();
    (File::from(process), File::from(master))
}
