"""The pillar's judge: schema, formats, what holds between keys, and the sentences. Needs no Salt."""
