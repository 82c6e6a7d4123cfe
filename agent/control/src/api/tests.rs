//! Requests and answers, without anything that carries them.
