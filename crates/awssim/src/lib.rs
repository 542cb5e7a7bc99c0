//! A simulated AWS: accounts, STS, IAM, KMS, EC2, the EBS direct APIs, S3 and VM import behind real signatures, for any
//! AWS client. It runs as the server `awssim` or inside another process ([`Server::start`]), keeps volumes as sparse
//! files and snapshots as what changed, and can be slow, throttled or broken on purpose ([`faults`]).

pub mod admin;
pub mod disks;
pub mod ebs;
pub mod faults;
pub mod server;
pub mod store;
pub mod world;

mod device;
mod ec2;
mod import;
mod kms;
mod s3;
mod sts;

pub use server::{Config, Context, Running, Server, StartError};
pub use world::World;
