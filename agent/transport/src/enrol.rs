//! How this machine is let in by a token.

use crate::dial::{refused, secure};
use crate::runtime::Runtime;
use crate::secured::end_of;
use crate::{End, HostPort, Limits};
use failback_credentials::{ANSWER_LEN, AnswerError, Tls, Token, Welcome, read_answer, request};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::timeout;

/// How long the server may take to answer: it writes its list of peers durably.
const ANSWER: Duration = Duration::from_secs(60);

/// Why this machine is not enrolled.
#[derive(Debug, thiserror::Error)]
pub enum EnrolError {
    /// The server was not reached, or is not the token's.
    #[error(transparent)]
    Connection(#[from] End),
    /// The server refused, or said something else.
    #[error(transparent)]
    Answer(#[from] AnswerError),
}

/// Shows a token to the server that it is for. After it the server is to be added to this machine's own list.
///
/// # Errors
///
/// When the server cannot be reached, is not the token's, or refuses. Where the connection broke behind the question, the same
/// token may be shown again.
pub fn enrol(
    address: &HostPort,
    tls: &Tls,
    token: &Token,
    limits: Limits,
    runtime: &Runtime,
) -> Result<Welcome, EnrolError> {
    let attempt = tls.enrolment(token).map_err(|refusal| refused(&refusal))?;
    let (address, asked) = (address.clone(), token.clone());
    let answer = runtime.wait(async move {
        let (mut stream, attempt) = secure(&address, attempt, limits.connect).await?;
        let message = request(&asked, &attempt, stream.get_ref().1).map_err(|refusal| refused(&refusal))?;
        let exchange = async {
            stream.write_all(&message).await?;
            stream.flush().await?;
            let mut answer = [0; ANSWER_LEN];
            stream.read_exact(&mut answer).await?;
            drop(stream.shutdown().await);
            Ok(answer)
        };
        match timeout(ANSWER, exchange).await {
            Ok(answer) => answer.map_err(|error| end_of(&attempt, &error)),
            Err(_) => Err(End::Silent(ANSWER)),
        }
    });
    let answer = answer.map_err(|error| End::Because(error.to_string()))??;
    Ok(read_answer(token, &answer)?)
}
