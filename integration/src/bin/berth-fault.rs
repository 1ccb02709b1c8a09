//! Runs a program and lets one system call of it fail, or ends it there:
//! `berth-fault LOG ORDER PROGRAM [WORD…] [--then PROGRAM [WORD…]]…`, or `berth-fault LOG ORDER --attach PID`. ORDER is
//! `ACTION:CLASS:NUMBER`; ACTION is `count`, `kill`, `hold` or the name of an error; CLASS is `parent` or `child`.

use berth_integration::fault::{Order, tracer};
use std::path::Path;

fn main() {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let [log, order, rest @ ..] = words.as_slice() else { usage() };
    let Some(order) = Order::parse(order) else { usage() };
    let code = match rest {
        [word, pid] if word == "--attach" => pid.parse().map(|pid| tracer::attach(order, Path::new(log), pid)),
        _ => {
            let commands: Vec<Vec<String>> = rest.split(|word| word == "--then").map(<[String]>::to_vec).collect();
            Ok(tracer::run(order, Path::new(log), &commands))
        }
    };
    match code {
        Ok(Ok(code)) => std::process::exit(code),
        Ok(Err(e)) => {
            eprintln!("berth-fault: {e}");
            std::process::exit(125)
        }
        Err(_) => usage(),
    }
}

fn usage() -> ! {
    eprintln!("berth-fault LOG ORDER PROGRAM [WORD…] [--then PROGRAM [WORD…]]… | LOG ORDER --attach PID");
    std::process::exit(125)
}
