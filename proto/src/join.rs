//! The join string: all that a node needs in order to become a member.
//!
//! It holds a secret. Its text form is `shoal1:` and the base64 (URL alphabet) of the encoded value.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::codec::{self, CodecError};
use crate::id::{Name, NodeId};
use crate::limits::JOIN_BYTES_MAX;
use crate::time::WallTime;

const PREFIX: &str = "shoal1:";

/// What a join string says.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct JoinString {
    /// The coordinator's key, which the node pins.
    pub coordinator: NodeId,
    /// Where its control mesh is reached, as multiaddresses.
    pub addresses: Vec<String>,
    /// The site that the node will be in.
    pub site: Name,
    /// The token's number.
    pub token: u64,
    /// Its secret.
    pub secret: [u8; 32],
    /// Until when it can be used.
    pub expires: WallTime,
}

impl std::fmt::Debug for JoinString {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "JoinString(token {} of {:?})", self.token, self.coordinator)
    }
}

/// Why a text is no join string.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum JoinError {
    /// It does not begin like one.
    #[error("not a join string: it starts with `shoal1:` and comes from `shoal token create`")]
    Prefix,
    /// It was cut off or mistyped.
    #[error("a damaged join string: copy it again, whole, from `shoal token create`")]
    Alphabet,
    /// It does not decode.
    #[error("a damaged join string, or one of another version: {0}")]
    Codec(#[from] CodecError),
}

impl JoinString {
    /// The text form.
    ///
    /// # Errors
    /// [`CodecError::TooLarge`] if it holds too many addresses.
    pub fn to_text(&self) -> Result<String, CodecError> {
        let bytes = codec::encode(self, JOIN_BYTES_MAX)?;
        Ok(format!("{PREFIX}{}", URL_SAFE_NO_PAD.encode(bytes)))
    }

    /// The value of a text form; white space around it is ignored.
    ///
    /// # Errors
    /// [`JoinError`]. Expiry is the coordinator's to judge.
    pub fn from_text(text: &str) -> Result<Self, JoinError> {
        let body = text.trim().strip_prefix(PREFIX).ok_or(JoinError::Prefix)?;
        let bytes = URL_SAFE_NO_PAD.decode(body).map_err(|_| JoinError::Alphabet)?;
        Ok(codec::decode(&bytes, JOIN_BYTES_MAX)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_round_trips_and_damage_is_named() {
        let join = JoinString {
            coordinator: NodeId([1; 32]),
            addresses: vec!["/ip4/127.0.0.1/tcp/7440".into()],
            site: Name::new("syd").unwrap(),
            token: 7,
            secret: [9; 32],
            expires: WallTime(123),
        };
        let text = join.to_text().unwrap();
        assert_eq!(JoinString::from_text(&format!(" {text}\n")), Ok(join));
        assert_eq!(JoinString::from_text("x"), Err(JoinError::Prefix));
        assert_eq!(JoinString::from_text("shoal1:%%"), Err(JoinError::Alphabet));
        assert!(matches!(JoinString::from_text(&text[..text.len() - 8]), Err(JoinError::Codec(_))));
        assert!(!format!("{:?}", JoinString::from_text(&text)).contains("9, 9"), "the secret is not shown");
    }
}
