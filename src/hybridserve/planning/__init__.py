"""Pure arithmetic: config.json -> layers -> pages -> blocks -> capacity -> advice."""
