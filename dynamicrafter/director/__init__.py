"""The director: proposes what moves in a picture, corrects what was generated, and adds sound."""
