//! A simulated AWS: accounts, STS, IAM, KMS, EC2 and the EBS direct APIs behind real signatures, for any AWS client. It
//! runs as the server `awssim` or inside another process ([`Server::start`]), keeps volumes as sparse files and
//! snapshots as what changed, and can be slow, throttled or broken on purpose ([`faults`]).

pub mod admin;
pub mod ebs;
pub mod faults;
pub mod server;
pub mod store;
pub mod world;

mod device;
mod ec2;
mod kms;
mod sts;

pub use server::{Config, Context, Running, Server, StartError};
pub use world::World;
