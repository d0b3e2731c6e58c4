//! Forms with a file, `multipart/form-data`, read as they come: a package is never in memory as a whole.

/// What was read.
#[derive(Debug, PartialEq)]
pub enum Piece {
    /// A field begins.
    Begin {
        /// Its name.
        name: String,
        /// The name of its file, where it is one.
        file: Option<String>,
    },
    /// Some of the field's bytes.
    Data(Vec<u8>),
    /// The field is over.
    End,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum At {
    /// Before the first field.
    Begin,
    /// Behind a delimiter.
    Delimiter,
    /// In the lines before a field's bytes.
    Head,
    /// In a field's bytes.
    Body,
    /// Behind the last field.
    Over,
}

/// A reader of one form.
pub struct Reader {
    delimiter: Vec<u8>,
    buffer: Vec<u8>,
    at: At,
}

/// Bytes of lines before a field at most.
const HEAD_MAX: usize = 8 << 10;

impl Reader {
    /// A reader for a form of this content type.
    ///
    /// # Errors
    /// That it is no such form.
    pub fn new(content_type: &str) -> Result<Reader, String> {
        let wrong = || "want a form of the type multipart/form-data".to_string();
        let rest = content_type.strip_prefix("multipart/form-data").ok_or_else(wrong)?;
        let boundary = rest.split(';').find_map(|part| part.trim().strip_prefix("boundary=")).ok_or_else(wrong)?;
        let boundary = boundary.trim_matches('"');
        if boundary.is_empty() || boundary.len() > 70 {
            return Err(wrong());
        }
        let delimiter = format!("\r\n--{boundary}").into_bytes();
        // The first delimiter has no line before it.
        Ok(Reader { delimiter, buffer: b"\r\n".to_vec(), at: At::Begin })
    }

    /// Whether the form was read to its end.
    pub fn is_over(&self) -> bool {
        self.at == At::Over
    }

    /// Reads more bytes of the form.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn read(&mut self, bytes: &[u8]) -> Result<Vec<Piece>, String> {
        self.buffer.extend_from_slice(bytes);
        let mut pieces = Vec::new();
        while self.step(&mut pieces)? {}
        Ok(pieces)
    }

    /// Reads one thing more; false when more bytes are wanted.
    fn step(&mut self, pieces: &mut Vec<Piece>) -> Result<bool, String> {
        match self.at {
            At::Begin => {
                let Some(place) = find(&self.buffer, &self.delimiter) else { return self.wait(HEAD_MAX) };
                self.buffer.drain(..place + self.delimiter.len());
                self.at = At::Delimiter;
            }
            At::Delimiter => {
                let Some(two) = self.buffer.get(..2) else { return Ok(false) };
                self.at = match two {
                    b"--" => At::Over,
                    b"\r\n" => At::Head,
                    _ => return Err("the form is broken between its fields".to_string()),
                };
                // The line end stays for a field without lines before it.
                if self.at == At::Over {
                    self.buffer.clear();
                }
            }
            At::Head => {
                let Some(place) = find(&self.buffer, b"\r\n\r\n") else { return self.wait(HEAD_MAX) };
                let head = String::from_utf8_lossy(&self.buffer[..place]).into_owned();
                self.buffer.drain(..place + 4);
                pieces.push(read_head(&head)?);
                self.at = At::Body;
            }
            At::Body => {
                let found = find(&self.buffer, &self.delimiter);
                let end = found.unwrap_or_else(|| self.buffer.len().saturating_sub(self.delimiter.len() - 1));
                if end > 0 {
                    pieces.push(Piece::Data(self.buffer.drain(..end).collect()));
                }
                if found.is_none() {
                    return Ok(false);
                }
                self.buffer.drain(..self.delimiter.len());
                pieces.push(Piece::End);
                self.at = At::Delimiter;
            }
            At::Over => {
                self.buffer.clear();
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn wait(&self, most: usize) -> Result<bool, String> {
        match self.buffer.len() > most {
            true => Err("the form is broken: a field does not begin".to_string()),
            false => Ok(false),
        }
    }
}

/// The lines before a field.
fn read_head(head: &str) -> Result<Piece, String> {
    let is_line = |line: &&str| line.to_ascii_lowercase().starts_with("content-disposition:");
    let line = head.split("\r\n").find(is_line).ok_or("a field of the form has no name")?;
    let name = parameter(line, "name").ok_or("a field of the form has no name")?;
    let file = parameter(line, "filename");
    // Some send the whole path; only the name is wanted.
    let file = file.map(|path| path.rsplit(['/', '\\']).next().unwrap_or_default().to_string());
    Ok(Piece::Begin { name, file })
}

/// The value of `; key="value"`. Browsers write a quote in it as `%22`.
fn parameter(line: &str, key: &str) -> Option<String> {
    let sign = format!("; {key}=\"");
    let begin = line.find(&sign)? + sign.len();
    let end = line[begin..].find('"')?;
    Some(line[begin..begin + end].replace("%22", "\""))
}

/// The place of a delimiter, which begins with a carriage return.
fn find(bytes: &[u8], wanted: &[u8]) -> Option<usize> {
    let mut from = 0;
    while let Some(step) = bytes[from..].iter().position(|byte| *byte == wanted[0]) {
        let place = from + step;
        if bytes[place..].starts_with(wanted) {
            return Some(place);
        }
        from = place + 1;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    const FORM: &str = "--xY\r\nContent-Disposition: form-data; name=\"agent\"\r\n\r\nweb\r\n--xY\r\n\
        content-disposition: form-data; name=\"file\"; filename=\"C:\\a\\web-1.tgz\"\r\nContent-Type: x/y\r\n\r\n\
        a\r\n--xZ\r\n\r\nb\r\n--xY\r\nContent-Disposition: form-data; name=\"empty\"\r\n\r\n\r\n--xY--\r\n";

    /// Fields as (name, file, bytes).
    fn fields(chunk: usize, form: &str) -> Result<Vec<(String, Option<String>, String)>, String> {
        let mut reader = Reader::new("multipart/form-data; boundary=xY")?;
        let mut fields = Vec::new();
        for bytes in form.as_bytes().chunks(chunk) {
            for piece in reader.read(bytes)? {
                match piece {
                    Piece::Begin { name, file } => fields.push((name, file, String::new())),
                    Piece::Data(data) => fields.last_mut().expect("a field").2 += &String::from_utf8_lossy(&data),
                    Piece::End => (),
                }
            }
        }
        assert!(reader.is_over(), "{fields:?}");
        Ok(fields)
    }

    #[test]
    fn a_form_is_the_same_in_whatever_chunks_it_comes() {
        let wanted = [
            ("agent".to_string(), None, "web".to_string()),
            ("file".to_string(), Some("web-1.tgz".to_string()), "a\r\n--xZ\r\n\r\nb".to_string()),
            ("empty".to_string(), None, String::new()),
        ];
        for chunk in [1, 2, 3, 7, 64, 10_000] {
            assert_eq!(fields(chunk, FORM).expect("a form"), wanted, "in chunks of {chunk}");
        }
    }

    #[test]
    fn what_is_broken_is_refused() {
        assert!(Reader::new("text/plain").is_err());
        assert!(Reader::new("multipart/form-data").is_err());
        let mut reader = Reader::new("multipart/form-data; boundary=xY").expect("a reader");
        assert!(reader.read(b"--xY\r\nX: y\r\n\r\nz").is_err());
        let mut reader = Reader::new("multipart/form-data; boundary=xY").expect("a reader");
        assert!(reader.read(&vec![b'x'; HEAD_MAX + 1]).is_err());
        let mut reader = Reader::new("multipart/form-data; boundary=xY").expect("a reader");
        assert!(reader.read(b"--xYzz").is_err());
    }
}
