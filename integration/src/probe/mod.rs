//! The code of `berth-probe`: `report` prints what the process sees, `act` carries out actions, `sys` makes the system
//! calls.
//!
//! A command line is a list of actions separated by `+`: `probe report + spew 1000 + exit 3`. An action that has a
//! result prints one line of JSON on standard output.

pub mod act;
mod counter;
pub mod report;
pub mod spy;
pub mod sys;

/// Runs the actions of the command line in order. Returns 0, the exit status of an action, or 99 for an unknown action.
pub fn main() -> i32 {
    // The descriptors are listed first, while the probe has opened none.
    let fds = report::fds();
    let args: Vec<String> =
        std::env::args_os().skip(1).map(|a| String::from_utf8_lossy(a.as_encoded_bytes()).into_owned()).collect();
    // The signals are blocked early: a reader of the earlier output may send one at once.
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
            // Another thread carries out the rest and ends the program. This thread ends here.
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
