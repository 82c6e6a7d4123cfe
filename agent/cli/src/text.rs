//! Texts for people: sentences in lines of a given width.

pub(crate) use failback_orchestrate::with_causes;

/// As wide as a line of a report gets.
pub(crate) const WIDTH: usize = 100;

/// The first `width` characters, the last of them an ellipsis where more were there.
pub(crate) fn cut(text: &str, width: usize) -> String {
    if text.chars().count() <= width {
        return text.to_owned();
    }
    text.chars().take(width.saturating_sub(1)).chain(['…']).collect()
}

/// A sentence in lines of at most `width`, as far as its words are not longer than that; all but the first indented.
pub(crate) fn wrapped(sentence: &str, width: usize, indent: usize) -> String {
    let mut text = String::new();
    let mut line = String::new();
    for word in sentence.split(' ') {
        if line.chars().count() + 1 + word.chars().count() > width && !line.trim().is_empty() {
            text += line.trim_end();
            text.push('\n');
            line = " ".repeat(indent);
        } else if !line.is_empty() {
            line.push(' ');
        }
        line += word;
    }
    text + line.trim_end() + "\n"
}

/// A sentence behind a prefix, in lines of at most `width`; those that follow begin below the sentence.
pub(crate) fn hanging(prefix: &str, sentence: &str, width: usize) -> String {
    let indent = prefix.chars().count();
    let lines = wrapped(sentence, width.saturating_sub(indent), 0);
    let line = |(index, line)| if index == 0 { format!("{prefix}{line}\n") } else { format!("{:indent$}{line}\n", "") };
    lines.lines().enumerate().map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sentences_are_wrapped_and_whole() {
        let text = wrapped(&"word ".repeat(60), 100, 2);
        assert!(text.lines().all(|line| line.chars().count() <= 100));
        assert_eq!(text.split_whitespace().count(), 60);
        let long = "x".repeat(300);
        assert_eq!(wrapped(&format!("a {long} b"), 100, 2), format!("a\n  {long}\n  b\n"));
    }

    #[test]
    fn a_prefix_hangs_over() {
        assert_eq!(hanging("  => ", "one two three", 13), "  => one two\n     three\n");
        assert_eq!(hanging("a ", "word", 3), "a word\n");
    }

    #[test]
    fn what_is_cut_says_so() {
        assert_eq!((cut("abc", 3), cut("abcd", 3), cut("äöü", 2)), ("abc".into(), "ab…".into(), "ä…".into()));
        assert_eq!(cut("abc", 0), "…");
    }
}
