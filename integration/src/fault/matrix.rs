//! Tries an operation with every order: each call of each class times each action, until an order comes to no call.

use super::{Action, Class, ERRNOS, Log, Order, judge::Outcome};
use std::{
    collections::{BTreeMap, VecDeque},
    fmt::Write as _,
    sync::Mutex,
};

/// One tried order.
#[derive(Debug)]
pub struct Cell {
    /// The log of the driver.
    pub log: Log,
    /// The outcome; `None` for a finding.
    pub outcome: Option<Outcome>,
    /// The faults of the outcome.
    pub findings: Vec<String>,
    /// The error or the warnings.
    pub said: String,
}

/// An operation that is tried again and again, on a runtime of its own.
pub trait Scene {
    /// Tries one order, judges the outcome and makes the scene as it was before.
    fn cell(&mut self, order: Order) -> Cell;
}

/// Makes a scene. Each worker has its own.
pub type Make<'a> = &'a (dyn Fn() -> Box<dyn Scene> + Sync);

/// One action at the calls of one class: at `first`, and then at every `step`-th call.
#[derive(Clone, Copy, Debug)]
pub struct Row {
    /// The class of the calls.
    pub class: Class,
    /// The action.
    pub action: Action,
    /// The first call.
    pub first: usize,
    /// The distance to the next.
    pub step: usize,
}

/// Which orders are tried.
#[derive(Clone, Debug)]
pub struct Range(pub Vec<Row>);

impl Range {
    /// Every call of these classes with each of the actions.
    fn of(classes: &[Class], actions: &[Action]) -> Self {
        let rows = classes.iter().flat_map(|class| actions.iter().map(|action| (*class, *action)));
        Self(rows.map(|(class, action)| Row { class, action, first: 1, step: 1 }).collect())
    }

    /// Every call with each error.
    pub fn of_faults(classes: &[Class]) -> Self {
        Self::of(classes, &ERRNOS.map(Action::Fail))
    }

    /// Every call as the moment of death.
    pub fn of_kills(classes: &[Class]) -> Self {
        Self::of(classes, &[Action::Kill])
    }

    /// Every call of the child as the place where it stands still.
    pub fn of_holds() -> Self {
        Self::of(&[Class::Child], &[Action::Hold])
    }

    /// Adds the rows of another range.
    pub fn and(mut self, other: Self) -> Self {
        self.0.extend(other.0);
        self
    }

    /// Keeps every `step`-th call of each row. Each row begins elsewhere, so that they share the calls.
    pub fn every(mut self, step: usize) -> Self {
        let rows = self.0.len();
        for (n, row) in self.0.iter_mut().enumerate() {
            (row.first, row.step) = (1 + n * step / rows, step);
        }
        self
    }

    /// Keeps the rows of which `words` names the class, if it names a class, and the action, if it names an action.
    pub fn only(&self, words: &[String]) -> Self {
        let (classes, actions): (Vec<_>, Vec<_>) =
            words.iter().partition(|word| ["parent", "child"].contains(&word.as_str()));
        let named = |row: &&Row| {
            let text = Order { action: row.action, class: row.class, at: 0 }.to_string();
            let has =
                |list: &[&String]| list.is_empty() || text.split(':').any(|part| list.iter().any(|word| *word == part));
            has(&classes) && has(&actions)
        };
        Self(self.0.iter().filter(named).copied().collect())
    }
}

/// The outcomes of a range.
#[derive(Debug, Default)]
pub struct Table {
    /// Number of orders by class and outcome; `None` are findings.
    pub counts: BTreeMap<(Class, Option<Outcome>), usize>,
    /// The number of calls of each class, as far as they were tried.
    pub calls: BTreeMap<Class, usize>,
    /// One line each.
    pub findings: Vec<String>,
    /// Every different text, with one order that led to it.
    pub said: BTreeMap<String, String>,
}

impl Table {
    fn add(&mut self, order: Order, cell: Cell) {
        *self.counts.entry((order.class, cell.outcome)).or_default() += 1;
        let calls = self.calls.entry(order.class).or_default();
        *calls = order.at.max(*calls);
        let at = format!("{order} {}", cell.log.hit.unwrap_or_default());
        self.findings.extend(cell.findings.into_iter().map(|text| format!("{at}: {text}")));
        if !cell.said.is_empty() {
            self.said.entry(cell.said).or_insert(at);
        }
    }

    /// Returns the number of orders of a class with an outcome.
    pub fn count(&self, class: Class, outcome: Option<Outcome>) -> usize {
        self.counts.get(&(class, outcome)).copied().unwrap_or_default()
    }

    /// Returns the number of all orders that came to a call.
    pub fn tried(&self) -> usize {
        self.counts.values().sum()
    }

    /// Returns the findings, grouped by their text without numbers.
    pub fn report(&self) -> String {
        let mut text = String::new();
        self.findings.iter().for_each(|line| writeln!(text, "{line}").unwrap());
        text
    }
}

/// Tries one order. A scene that panics, because a bound has passed or because it cannot be set up, is made anew.
fn tried(scene: &mut Option<Box<dyn Scene>>, make: Make<'_>, order: Order) -> Cell {
    let cell = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| scene.get_or_insert_with(make).cell(order)));
    cell.unwrap_or_else(|panic| {
        let _ = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| drop(scene.take())));
        let text = panic.downcast_ref::<String>().cloned();
        let text = text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned())).unwrap_or_default();
        let log = Log { hit: Some("?".to_owned()), ..Log::default() };
        Cell { log, outcome: None, findings: vec![format!("the scene ends: {text}")], said: String::new() }
    })
}

/// The findings of one row after which the rest of it is not tried.
const ENOUGH: usize = 40;

/// Tries all orders of `range`, with `workers` at a time.
pub fn try_all(range: &Range, workers: usize, make: Make<'_>) -> Table {
    let rows: Mutex<VecDeque<Row>> = Mutex::new(range.0.iter().copied().collect());
    let table = Mutex::new(Table::default());
    let work = || {
        let mut scene: Option<Box<dyn Scene>> = None;
        loop {
            let Some(row) = rows.lock().unwrap().pop_front() else { return };
            let (mut at, mut found) = (row.first, 0);
            loop {
                let order = Order { action: row.action, class: row.class, at };
                let cell = tried(&mut scene, make, order);
                if cell.log.hit.is_none() {
                    // Without a fault, nothing may be wrong.
                    let mut table = table.lock().unwrap();
                    table.findings.extend(cell.findings.iter().map(|text| format!("{order} without a hit: {text}")));
                    break;
                }
                for text in &cell.findings {
                    eprintln!("{order} {}: {text}", cell.log.hit.as_deref().unwrap_or_default());
                }
                found += cell.findings.len();
                table.lock().unwrap().add(order, cell);
                if found > ENOUGH {
                    table
                        .lock()
                        .unwrap()
                        .findings
                        .push(format!("{order}: {found} findings, and the rest is not tried"));
                    break;
                }
                at += row.step;
            }
        }
    };
    std::thread::scope(|scope| {
        for _ in 0..workers {
            scope.spawn(work);
        }
    });
    table.into_inner().unwrap()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_of_a_sample_share_the_calls() {
        let sample = Range::of_faults(&[Class::Child]).every(20);
        let firsts: Vec<_> = sample.0.iter().map(|row| row.first).collect();
        assert_eq!(firsts, [1, 3, 5, 7, 9, 11, 13, 15, 17, 19]);
        assert!(sample.0.iter().all(|row| row.step == 20));
    }

    #[test]
    fn words_pick_classes_and_errors() {
        let words = |list: &[&str]| list.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>();
        let all = Range::of_faults(&Class::ALL);
        for (list, count) in [(&[][..], 20), (&["child"], 10), (&["EIO"], 2), (&["EIO", "EPERM", "parent"], 2)] {
            assert_eq!(all.only(&words(list)).0.len(), count, "{list:?}");
        }
    }
}
