//! Real brokers, databases, processes and networks for tests: each, but for virtual hosts, starts on free loopback ports in
//! a folder of its own, is stopped by its own process id, and is gone when its value is dropped.
//!
//! | module | noun |
//! |---|---|
//! | [`broker`] | a private RabbitMQ node |
//! | [`shared`] | a node for a whole run of tests, and a virtual host of it |
//! | [`postgres`] | a private PostgreSQL server |
//! | [`process`] | a program of this workspace |
//! | [`proxy`] | a network that can be cut, delayed or swallowed |
//! | [`wait`] | waiting for a condition, with a bound |
//! | [`tool`] | programs that must be installed, and the packages that bring them |
//! | [`port`] | free ports |
//! | [`child`] | a child process, its log and its signals |
//!
//! A test that uses a broker, a database or processes belongs in a test binary whose name holds `rabbit`,
//! `postgres` or `process`: nextest runs two of those at a time. Nothing here is for production code.

pub mod broker;
pub mod child;
pub mod port;
pub mod postgres;
pub mod process;
pub mod proxy;
pub mod shared;
pub mod tool;
pub mod wait;

pub use broker::{Broker, BrokerOptions};
pub use child::Child;
pub use port::free_port;
pub use postgres::Postgres;
pub use process::{Process, workspace_binary};
pub use proxy::{Direction, TcpProxy};
pub use shared::{SharedBroker, VirtualHost};
pub use tool::{Tool, require};
pub use wait::eventually;
