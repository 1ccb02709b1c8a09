//! The inside of `berth-probe`: `report` says what the process sees, `act` does things, `sys` makes the system calls.
//!
//! A command line is a chain of actions separated by `+`: `probe report + spew 1000 + exit 3`. Each action that has
//! something to say prints one line of JSON on standard output.

pub mod act;
pub mod report;
pub mod spy;
pub mod sys;

/// Runs the actions of the command line in order; gives the exit status: 0, what an action ends with, or 99 for words
/// that are not understood.
pub fn main() -> i32 {
    // First of all, while no descriptor of our own is open.
    let fds = report::fds();
    let args: Vec<String> =
        std::env::args_os().skip(1).map(|a| String::from_utf8_lossy(a.as_encoded_bytes()).into_owned()).collect();
    // Whoever reads what is said before it may send the signal at once.
    if args.iter().any(|a| a == "signal" || a == "await") {
        sys::block_signals();
    }
    run(&args, &fds)
}

fn run(args: &[String], fds: &serde_json::Value) -> i32 {
    let mut actions = args.split(|a| a == "+");
    while let Some(action) = actions.next() {
        let Some((verb, rest)) = action.split_first() else { continue };
        let end = match verb.as_str() {
            "report" => report::print(rest, fds),
            // What follows is done by another thread, whose end is the program's; this one ends here.
            "headless" => {
                let (rest, fds) = (actions.collect::<Vec<_>>().join(&"+".to_owned()), fds.clone());
                std::thread::spawn(move || sys::exit(run(&rest, &fds)));
                sys::end_thread()
            }
            _ => act::act(verb, rest),
        };
        if let Some(status) = end {
            return status;
        }
    }
    0
}
