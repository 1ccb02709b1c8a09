//! The answers of rtnetlink. The oracle cuts messages and attributes by hand.

use berth_runtime::fuzzing::rtnetlink::{attributes, messages, parse_address, parse_link};

use crate::input::Input;

fn word(bytes: &[u8], at: usize) -> usize {
    usize::try_from(u32::from_ne_bytes(bytes[at..at + 4].try_into().unwrap())).unwrap()
}

fn half(bytes: &[u8], at: usize) -> u16 {
    u16::from_ne_bytes(bytes[at..at + 2].try_into().unwrap())
}

/// Type, flags and body of each message.
fn naive_messages(bytes: &[u8]) -> Vec<(u16, u16, &[u8])> {
    let (mut all, mut at) = (Vec::new(), 0);
    while bytes.len() >= at + 16 {
        let length = word(bytes, at);
        if length < 16 || length > bytes.len() - at {
            break;
        }
        all.push((half(bytes, at + 4), half(bytes, at + 6), &bytes[at + 16..at + length]));
        at += length.next_multiple_of(4);
    }
    all
}

fn naive_attributes(bytes: &[u8]) -> Vec<(u16, &[u8])> {
    let (mut all, mut at) = (Vec::new(), 0);
    while bytes.len() >= at + 4 {
        let length = usize::from(half(bytes, at));
        if length < 4 || length > bytes.len() - at {
            break;
        }
        all.push((half(bytes, at + 2), &bytes[at + 4..at + length]));
        at += length.next_multiple_of(4);
    }
    all
}

pub fn run(data: &[u8]) {
    let mut input = Input::new(data);
    let index = i32::from(input.byte());
    let bytes = input.rest();
    let found: Vec<_> = messages(bytes).map(|message| (message.kind, message.flags, message.body)).collect();
    assert_eq!(found, naive_messages(bytes));
    for body in found.into_iter().map(|(_, _, body)| body).chain([bytes]) {
        let pairs: Vec<_> = attributes(body).collect();
        assert_eq!(pairs, naive_attributes(body));
        assert_eq!(parse_link(body).is_some(), body.len() >= 12);
        if let Some(link) = parse_link(body) {
            assert_eq!(link.index, u32::try_from(word(body, 4)).unwrap().cast_signed());
            assert_eq!(link.up, body[8] & 1 == 1);
        }
        let wide = body.get(8..).map(naive_attributes).unwrap_or_default();
        let wide = wide.iter().find(|(kind, _)| *kind == 8).filter(|(_, data)| data.len() >= 4);
        let permanent = body.len() >= 8
            && u32::try_from(word(body, 4)).unwrap().cast_signed() == index
            && wide.map_or(body[2], |(_, data)| u32::from_ne_bytes(data[..4].try_into().unwrap()).to_le_bytes()[0])
                & 0x80
                != 0;
        let address = parse_address(body, index);
        assert_eq!(address.is_some(), permanent);
        if let Some(address) = address {
            assert_eq!(address.is_global(), body[3] == 0);
            assert!(address.to_string().ends_with(&format!("/{}", body[1])));
        }
    }
}
