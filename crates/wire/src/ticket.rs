//! The ticket: the body of a message on a task queue. It is a hint that a task may be claimed: ids only, no state
//! and no secret, so that losing one costs a delay and reading one tells nothing.
//!
//! Layout, version 1, 34 bytes, little-endian, nothing optional:
//!
//! | offset | bytes | what |
//! |---|---|---|
//! | 0 | 1 | version, 1 |
//! | 1 | 1 | task kind, [`TaskKind::code`] |
//! | 2 | 16 | task id, 128 bits |
//! | 18 | 16 | dispatch id, 128 bits |
//!
//! The bytes are made by bincode 2 in its fixed-integer configuration. Because the layout is written down and
//! frozen by a test, any codec can take its place.

use bincode::config::{Configuration, Fixint, Limit, LittleEndian};
use bincode::error::DecodeError;
use bincode::{Decode, Encode};
use snapferry_types::{DispatchId, TaskId, TaskKind};
use thiserror::Error;

/// Bytes of an encoded ticket.
pub const TICKET_LEN: usize = 34;

/// The layout's version.
pub const TICKET_VERSION: u8 = 1;

const CODEC: Configuration<LittleEndian, Fixint, Limit<TICKET_LEN>> =
    bincode::config::standard().with_little_endian().with_fixed_int_encoding().with_limit::<TICKET_LEN>();

/// An offer of a task.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Ticket {
    /// What is offered.
    pub task: TaskId,
    /// This offer of it; an older one is void.
    pub dispatch: DispatchId,
    /// What kind of work it is.
    pub kind: TaskKind,
}

/// A message that is no ticket.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum TicketError {
    /// The length is not that of any known version.
    #[error("ticket has {0} bytes where {TICKET_LEN} are expected")]
    Length(usize),
    /// Written by a newer scheduler.
    #[error("ticket has version {0}, this build reads version {TICKET_VERSION}")]
    Version(u8),
    /// A kind that this build does not know.
    #[error("ticket names the unknown task kind {0}")]
    Kind(u8),
    /// The bytes do not decode.
    #[error("ticket does not decode: {0}")]
    Codec(String),
}

#[derive(Encode, Decode)]
struct Layout {
    version: u8,
    kind: u8,
    task: u128,
    dispatch: u128,
}

impl Ticket {
    /// The message body.
    #[must_use]
    pub fn encode(&self) -> [u8; TICKET_LEN] {
        let layout = Layout {
            version: TICKET_VERSION,
            kind: self.kind.code(),
            task: self.task.as_u128(),
            dispatch: self.dispatch.as_u128(),
        };
        let mut body = [0; TICKET_LEN];
        bincode::encode_into_slice(layout, &mut body, CODEC)
            .expect("the layout has exactly TICKET_LEN bytes");
        body
    }

    /// The ticket of a message body.
    ///
    /// # Errors
    /// [`TicketError`] for anything but the layout above; such a message goes to the dead queue.
    pub fn decode(body: &[u8]) -> Result<Self, TicketError> {
        if let Some(&version) = body.first()
            && version != TICKET_VERSION
        {
            return Err(TicketError::Version(version));
        }
        if body.len() != TICKET_LEN {
            return Err(TicketError::Length(body.len()));
        }
        let (layout, _) = bincode::decode_from_slice::<Layout, _>(body, CODEC)
            .map_err(|error: DecodeError| TicketError::Codec(error.to_string()))?;
        Ok(Self {
            task: TaskId::from_u128(layout.task),
            dispatch: DispatchId::from_u128(layout.dispatch),
            kind: TaskKind::from_code(layout.kind).ok_or(TicketError::Kind(layout.kind))?,
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const GOLDEN: [u8; TICKET_LEN] = [
        1, 2, 0x10, 0x0f, 0x0e, 0x0d, 0x0c, 0x0b, 0x0a, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0x20, 0x1f, 0x1e, 0x1d,
        0x1c, 0x1b, 0x1a, 0x19, 0x18, 0x17, 0x16, 0x15, 0x14, 0x13, 0x12, 0x11,
    ];

    #[test]
    fn the_layout_is_frozen() {
        let ticket = Ticket {
            task: TaskId::from_u128(0x0102_0304_0506_0708_090a_0b0c_0d0e_0f10),
            dispatch: DispatchId::from_u128(0x1112_1314_1516_1718_191a_1b1c_1d1e_1f20),
            kind: TaskKind::Restore,
        };
        assert_eq!(ticket.encode(), GOLDEN);
        assert_eq!(Ticket::decode(&GOLDEN), Ok(ticket));
    }

    #[test]
    fn what_is_no_ticket_is_named() {
        let mut newer = GOLDEN;
        newer[0] = 2;
        assert_eq!(Ticket::decode(&newer), Err(TicketError::Version(2)));
        let mut unknown = GOLDEN;
        unknown[1] = 200;
        assert_eq!(Ticket::decode(&unknown), Err(TicketError::Kind(200)));
        assert_eq!(Ticket::decode(&GOLDEN[..33]), Err(TicketError::Length(33)));
        assert_eq!(Ticket::decode(b""), Err(TicketError::Length(0)));
    }

    proptest! {
        #[test]
        fn any_ticket_round_trips(task: u128, dispatch: u128, kind in 0_usize..TaskKind::ALL.len()) {
            let ticket = Ticket {
                task: TaskId::from_u128(task),
                dispatch: DispatchId::from_u128(dispatch),
                kind: TaskKind::ALL[kind],
            };
            prop_assert_eq!(Ticket::decode(&ticket.encode()), Ok(ticket));
        }

        #[test]
        fn no_bytes_make_it_panic(body in proptest::collection::vec(any::<u8>(), 0..80)) {
            let _ = Ticket::decode(&body);
        }
    }
}
