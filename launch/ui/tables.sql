create table unit (id integer primary key, path text unique, sha256 text, damaged integer);
create table transcript (
  number integer primary key, id text unique, unit integer, place integer, generation integer, task text,
  source text, question text, answer text, thought text, accepted integer, repeats integer
);
create index by_generation on transcript (generation desc, number, accepted, source);
create index by_task on transcript (task);
create index by_unit on transcript (unit);
create table criterion (id integer primary key, name text unique);
create table verdict (
  criterion integer, passed integer, transcript integer, primary key (criterion, passed, transcript)
) without rowid;
create table passed (generation integer, criterion integer, count integer, primary key (generation, criterion));
create virtual table text using fts5 (
  question, answer, thought, content = 'transcript', content_rowid = 'number',
  tokenize = 'unicode61 remove_diacritics 2', prefix = '2 3'
);
