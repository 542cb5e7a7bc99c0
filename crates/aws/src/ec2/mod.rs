//! The EC2 steps.
