use berth_proto::{MessageField, events::Envelope};

use super::*;

fn request(topic: &str) -> ForwardRequest {
    let envelope = Envelope { topic: topic.into(), ..Envelope::default() };
    ForwardRequest { envelope: MessageField::some(envelope), ..ForwardRequest::default() }
}

fn drain(queue: &Queue) -> Vec<String> {
    let next = || queue.front().inspect(|_| queue.pop()).map(|request| request.envelope.topic.clone());
    std::iter::from_fn(next).collect()
}

fn oom(container: &str) -> Retention {
    Retention::Oom(container.into())
}

#[test]
fn a_full_queue_drops_the_oldest_droppable_event() {
    let queue = Queue::new(3);
    let (last, passing) = (Retention::Keep, Retention::DropFirst);
    for (topic, retention) in [("exit1", &last), ("added", &passing), ("started", &passing), ("exit2", &last)] {
        queue.push(request(topic), retention.clone());
    }
    assert_eq!(drain(&queue), ["exit1", "started", "exit2"]);
}

#[test]
fn a_storm_of_oom_events_drops_no_exit() {
    let queue = Queue::new(40);
    queue.push(request("exit"), Retention::Keep);
    for round in 0..10_000 {
        queue.push(request("oom"), oom(&format!("c{}", round % 100)));
    }
    for _ in 0..5 {
        queue.push(request("exit"), Retention::Keep);
    }
    let left = drain(&queue);
    assert_eq!(left.len(), 40);
    assert_eq!(left.iter().filter(|topic| *topic == "exit").count(), 6);
    assert_eq!(left.first().map(String::as_str), Some("exit"));
}

#[test]
fn one_container_does_not_crowd_out_the_oom_events_of_another() {
    let queue = Queue::new(100);
    queue.push(request("started"), Retention::DropFirst);
    for _ in 0..10_000 {
        queue.push(request("noisy"), oom("noisy"));
    }
    queue.push(request("other"), oom("other"));
    let left = drain(&queue);
    assert_eq!(left.len(), MAX_OOM_EVENTS + 2);
    assert_eq!((left.first().map(String::as_str), left.last().map(String::as_str)), (Some("started"), Some("other")));
}

#[test]
fn exits_are_kept_beyond_the_capacity() {
    let queue = Queue::new(2);
    for topic in ["a", "b", "c"] {
        queue.push(request(topic), Retention::Keep);
    }
    queue.push(request("d"), Retention::DropFirst);
    queue.push(request("e"), oom("c"));
    assert_eq!(drain(&queue), ["a", "b", "c"]);
}

#[test]
fn an_event_in_delivery_is_not_dropped() {
    let queue = Queue::new(2);
    queue.push(request("a"), Retention::DropFirst);
    assert_eq!(queue.front().unwrap().envelope.topic, "a");
    for topic in ["b", "c"] {
        queue.push(request(topic), Retention::DropFirst);
    }
    queue.pop();
    assert_eq!(drain(&queue), ["c"]);
}

#[test]
fn a_queue_without_capacity_keeps_nothing() {
    let queue = Queue::new(0);
    queue.push(request("a"), Retention::Keep);
    assert_eq!(queue.len(), 0);
}
