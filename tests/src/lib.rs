//! The whole system as users run it: scheduler, two agents and a MediaAgent as processes of their own, a real
//! RabbitMQ between them, a simulated AWS before them. The tests are in `tests/`; here is the rig they stand on.

pub mod breaking;
mod broker;
mod command;
mod config;
mod disk;
mod faults;
mod instance;
mod kept;
mod late;
mod moving;
mod one_process;
mod outsider;
mod policies;
mod processes;
mod protect;
mod rig;
mod tickets;
mod transports;

pub use broker::TestBroker;
pub use command::{Answer, CommandLine};
pub use config::{TOKENS, Tokens};
pub use disk::Disk;
pub use faults::set_role;
pub use instance::{TestInstance, write_data, write_raw_image};
pub use kept::{check_has_all, check_kept, check_volumes_kept};
pub use moving::says;
pub use one_process::OneProcess;
pub use policies::{RESTORABLE, key_for, key_for_both};
pub use processes::files_in;
pub use protect::vault;
pub use rig::{ACCOUNT, ELSEWHERE, EXTERNAL_ID, REGION, Rig, RigOptions, SERVICE, VOLUMES};
pub use tickets::TicketTap;
pub use transports::{BUCKET, Machine, Resources};
