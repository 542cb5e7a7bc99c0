//! What goes over the wire: the protobuf contracts of `/proto` (leases and MediaAgent, over gRPC) with their
//! conversions to the words of `types`, and the [`ticket`] codec for RabbitMQ. It opens no connection.

pub mod convert;
mod grant;
mod hello;
mod ledger;
mod operation;
mod restore;
pub mod ticket;

/// Generated from `/proto/snapferry/v1`.
#[allow(
    unreachable_pub,
    clippy::all,
    clippy::pedantic,
    clippy::indexing_slicing,
    clippy::unwrap_used,
    missing_docs
)]
pub mod v1 {
    tonic::include_proto!("snapferry.v1");
}

pub use convert::ConvertError;
pub use hello::next_hello;
pub use ticket::{Ticket, TicketError};
