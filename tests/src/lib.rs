//! The whole system as users run it: scheduler, two agents and a MediaAgent as processes of their own, a real
//! RabbitMQ between them, a simulated AWS before them. The tests are in `tests/`; here is the rig they stand on.

mod config;
mod instance;
mod rig;

pub use instance::{TestInstance, write_data};
pub use rig::{ACCOUNT, REGION, Rig, RigOptions};
