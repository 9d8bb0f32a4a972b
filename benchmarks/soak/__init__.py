"""Very many requests, correct and faulty ones, against the real service: does it keep its promises to the end?"""
