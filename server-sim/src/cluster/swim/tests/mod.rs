//! Membership in virtual time.

mod formulas;
mod health;
mod hostile;
mod measure;
mod returning;
mod scenarios;
mod schedules;
