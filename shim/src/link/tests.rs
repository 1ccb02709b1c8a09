use std::io::{Read, Write};

use berth_proto::{
    Message, TASK_V2,
    ttrpc::{Request, proto::MESSAGE_LENGTH_MAX},
};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::*;
use crate::testing::runtime;

fn frame(stream: u32, service: &str, method: &str, timeout_nano: i64) -> Vec<u8> {
    let request = Request { service: service.into(), method: method.into(), timeout_nano, ..Request::default() };
    raw(stream, 1, &request.write_to_bytes().unwrap())
}

fn raw(stream: u32, kind: u8, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    [&length[..], &stream.to_be_bytes(), &[kind, 0], payload].concat()
}

/// A connection: the client's end, and the server's.
fn pair(links: &Arc<Links>) -> (std::os::unix::net::UnixStream, Stream) {
    let (client, server) = std::os::unix::net::UnixStream::pair().unwrap();
    server.set_nonblocking(true).unwrap();
    (client, links.add(UnixStream::from_std(server).unwrap()))
}

/// Reads as the server does, until nothing is left.
async fn read(stream: &mut Stream) -> Vec<u8> {
    let mut all = Vec::new();
    // The event loop learns of the bytes in its next turns.
    for _ in 0..64 {
        tokio::task::yield_now().await;
        let mut buffer = [0; 37];
        let mut buffer = ReadBuf::new(&mut buffer);
        let polled = std::future::poll_fn(|cx| {
            Poll::Ready(std::pin::Pin::new(&mut *stream).poll_read(cx, &mut buffer).is_ready())
        });
        if polled.await {
            all.extend_from_slice(buffer.filled());
        }
    }
    all
}

async fn write(stream: &mut Stream, bytes: &[u8]) {
    std::future::poll_fn(|cx| std::pin::Pin::new(&mut *stream).poll_write(cx, bytes)).await.unwrap();
}

#[test]
fn a_held_link_begins_no_frame_and_carries_a_part_of_one() {
    runtime().block_on(async {
        let links = Arc::<Links>::default();
        let (mut client, mut server) = pair(&links);
        let (first, second) = (frame(1, TASK_V2, "Wait", 0), frame(3, TASK_V2, "State", 0));
        client.write_all(&first).unwrap();
        client.write_all(&second[..7]).unwrap();
        assert_eq!(read(&mut server).await, first, "whole frames alone reach the server");
        assert_eq!(links.in_flight(), None);
        links.hold();
        client.write_all(&second[7..]).unwrap();
        assert_eq!(read(&mut server).await, b"");
        let mut keeper = Keeper::default();
        assert!(links.carry(&mut keeper).unwrap_err().to_string().contains("caller of the upgrade is gone"));
        assert_eq!(lock(&server.link().buffers).carried().0, &second[..7]);
        links.release();
        assert_eq!(read(&mut server).await, second);
        assert_eq!(links.in_flight().unwrap(), format!("{TASK_V2}/State has no answer yet"));
        // The answer in two parts: between them the link cannot be handed over.
        let answer = raw(3, 2, b"payload");
        write(&mut server, &answer[..12]).await;
        assert_eq!(links.in_flight().unwrap(), "an answer is being written");
        write(&mut server, &answer[12..]).await;
        assert_eq!(links.in_flight(), None);
        let mut got = vec![0; answer.len()];
        std::future::poll_fn(|cx| std::pin::Pin::new(&mut server).poll_flush(cx)).await.unwrap();
        client.read_exact(&mut got).unwrap();
        assert_eq!(got, answer);
    });
}

#[test]
fn an_adopted_link_serves_the_requests_that_wait_again() {
    runtime().block_on(async {
        let links = Arc::<Links>::default();
        let (mut client, mut server) = pair(&links);
        let wait = frame(1, TASK_V2, "Wait", 0);
        let upgrade = frame(3, UPGRADE.0, UPGRADE.1, 0);
        let state = frame(5, TASK_V2, "State", 0);
        client.write_all(&[&wait[..], &upgrade, &state[..9]].concat()).unwrap();
        read(&mut server).await;
        links.hold();
        let mut keeper = Keeper::default();
        let (connections, number, stream) = links.carry(&mut keeper).unwrap();
        assert_eq!((number, stream), (0, 3));
        let mut adopter = Adopter::check(&keeper.all()).unwrap();
        // Another program would own the descriptor; here the first owner must not close it.
        std::mem::forget(server);
        let next = Arc::<Links>::default();
        // A runtime of its own, as another program has: epoll(7) takes a descriptor once.
        let adopted = std::thread::spawn(move || {
            runtime().block_on(async {
                let mut adopted = next.adopt(connections, &mut adopter, (0, raw(3, 2, b"done"))).unwrap();
                let mut server = adopted.pop().unwrap();
                client.write_all(&state[9..]).unwrap();
                let seen = read(&mut server).await;
                let mut answer = vec![0; 14];
                client.read_exact(&mut answer).unwrap();
                (seen, answer, next.in_flight(), state)
            })
        });
        let (seen, answer, in_flight, state) = adopted.join().unwrap();
        assert_eq!(seen, [wait, state].concat());
        assert_eq!(answer, raw(3, 2, b"done"));
        assert_eq!(in_flight.unwrap(), format!("{TASK_V2}/State has no answer yet"));
    });
}

#[test]
fn a_request_that_waits_keeps_the_rest_of_its_time() {
    let mut calls = Calls::default();
    calls.begin(&frame(1, TASK_V2, "Wait", 1_000_000_000_000));
    calls.begin(&frame(3, TASK_V2, "Wait", 0));
    let left = |frame: &[u8]| Request::parse_from_bytes(&frame[10..]).unwrap().timeout_nano;
    let waiting = calls.waiting();
    let limited = left(&waiting[0]);
    assert!(limited < 1_000_000_000_000 && limited > 900_000_000_000, "{limited}");
    assert_eq!(
        usize::try_from(u32::from_be_bytes(waiting[0][..4].try_into().unwrap())).unwrap() + 10,
        waiting[0].len()
    );
    assert_eq!((left(&waiting[1]), waiting.len()), (0, 2));
}

#[test]
fn an_oversized_frame_passes_and_is_not_carried() {
    runtime().block_on(async {
        let links = Arc::<Links>::default();
        let (mut client, mut server) = pair(&links);
        let mut header = raw(7, 1, b"");
        header[..4].copy_from_slice(&u32::try_from(MESSAGE_LENGTH_MAX + 1).unwrap().to_be_bytes());
        client.write_all(&header).unwrap();
        client.write_all(b"xyz").unwrap();
        assert_eq!(read(&mut server).await, [&header[..], b"xyz"].concat());
        assert_eq!(links.in_flight().unwrap(), "an oversized request has no answer yet");
    });
}

#[test]
fn the_writer_of_an_answer_is_woken_when_the_socket_has_room() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    runtime().block_on(async {
        let links = Arc::<Links>::default();
        let (mut client, server) = pair(&links);
        let (mut reader, mut writer) = tokio::io::split(server);
        let answer = raw(1, 2, &vec![7; 1 << 20]);
        let size = answer.len();
        let writing = tokio::spawn(async move {
            writer.write_all(&answer).await.unwrap();
            writer.flush().await.unwrap();
            writer
        });
        tokio::task::yield_now().await;
        // The reading task is polled while the writer waits for room.
        let reading = tokio::spawn(async move { reader.read_u8().await });
        for _ in 0..8 {
            tokio::task::yield_now().await;
        }
        assert!(!writing.is_finished(), "the socket was to be full");
        let read = std::thread::spawn(move || {
            let mut all = vec![0; size];
            client.read_exact(&mut all).unwrap();
            (client, all.len())
        });
        let limit = std::time::Duration::from_secs(60);
        tokio::time::timeout(limit, writing).await.expect("the writer is woken").unwrap();
        assert_eq!(read.join().unwrap().1, size);
        reading.abort();
    });
}
